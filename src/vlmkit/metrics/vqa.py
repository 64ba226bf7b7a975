"""Accuracy of answers to questions about images, as in VQA."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vlmkit.metrics.inputs import check_list, check_strings

_ADVICE = "Pass one prediction and the answers for each question."
# Number of other people whose agreement gives the full score.
_FULL_AGREEMENT = 3

_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_NUMBER = re.compile(r"\d*\.?\d+")

# Stems by ending. Contractions that form another word without the apostrophe are omitted: she'll, we're, it's.
_CONTRACTIONS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "n't've": "could had might should would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it somebody someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "": "ma'am o'clock 'ow's'at 'twas y'all",
}
_WITH_APOSTROPHES = {
    (stem + ending).replace("'", ""): stem + ending for ending, stems in _CONTRACTIONS.items() for stem in stems.split()
}


def normalize_answer(text: str) -> str:
    """Normalize an answer as the evaluation of VQA does.

    - The answer is lower-cased, and articles are removed.
    - The words zero to ten and none become digits.
    - Contractions get their apostrophe.
    - Full stops are removed, except before a digit.
    - Other punctuation is removed if it is next to a space anywhere in the answer, or if the answer has a comma between
      digits. Otherwise it is replaced with a space.

    Args:
        text: Answer.

    References:
        Antol et al., "VQA: Visual Question Answering" (arXiv:1505.00468), whose evaluation has these rules.

    Example:
        >>> [normalize_answer(answer) for answer in ("The two T-shirts.", "It isnt red!", "No. 2.5", "1,000")]
        ['2 t shirts', "it isn't red", 'no 2.5', '1000']
    """
    text = " ".join(text.lower().split())
    words = [_NUMBERS.get(word, word) for word in _without_punctuation(text).split()]
    return " ".join(_WITH_APOSTROPHES.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    stripped, comma_in_number = text, _COMMA_IN_NUMBER.search(text)
    for mark in _PUNCTUATION:
        vanishes = comma_in_number or f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if vanishes else " ")
    return _FULL_STOP.sub("", stripped)


def vqa_accuracy(predictions: Sequence[str], answers: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """Compute the accuracy of answers to questions about images.

    Answers are compared after [`normalize_answer`]. With one correct answer, the score of a question is 1 for an exact
    match and 0 otherwise. With the answers of n people (usually ten), of whom m gave the predicted answer, the score is
    `min(m / 3, 1)`, averaged over leaving out each person: 0.3 for m = 1 of 10, 0.6 for 2, 0.9 for 3 and 1 for 4. For
    n <= 4, it is m / n.

    The type of a question is derived from its most frequent answer: yes or no, a number, or other. The evaluation of
    VQA reads the types from the data set instead, and normalizes predictions differently from the answers of people.

    Args:
        predictions: One answer for each question.
        answers: Correct answer of each question, or a list of the answers of several people.

    Returns:
        `accuracy`, the mean over all questions, and `accuracy/yes_no`, `accuracy/number` and `accuracy/other`, the
        means over the questions of each type that occurs, from 0 to 1.

    Raises:
        TypeError: If an answer is not a string, or a string or dictionary is passed instead of a list.
        ValueError: If `predictions` is empty, the numbers of predictions and questions differ, or a question has an
            empty list of answers.

    References:
        Antol et al., "VQA: Visual Question Answering" (arXiv:1505.00468), with the averaging of its evaluation code.

    Example:
        >>> vqa_accuracy(["Yes.", "2", "red"], ["yes", "three", "red"])
        {'accuracy': 0.6666666666666666, 'accuracy/yes_no': 1.0, 'accuracy/number': 0.0, 'accuracy/other': 1.0}
        >>> vqa_accuracy(["boat"], [["ship"] * 8 + ["a boat", "boat"]])
        {'accuracy': 0.6, 'accuracy/other': 0.6}
    """
    check_list("predictions", predictions, advice=_ADVICE)
    check_list("answers", answers, advice=_ADVICE)
    if len(predictions) == 0 or len(predictions) != len(answers):
        raise ValueError(
            f"`predictions` and `answers` must have the same length of at least 1, but got {len(predictions)} and "
            f"{len(answers)}. {_ADVICE}"
        )
    check_strings("predictions", predictions, kind="answer")
    scores: list[float] = []
    types: list[str] = []
    for question, (prediction, given) in enumerate(zip(predictions, answers, strict=True)):
        wanted = [normalize_answer(answer) for answer in _answer_list(f"answers[{question}]", given)]
        scores.append(_agreement(normalize_answer(prediction), wanted))
        types.append(_answer_type(wanted))
    metrics = {"accuracy": float(np.mean(scores))}
    for answer_type in ("yes_no", "number", "other"):
        of_type = [score for score, other in zip(scores, types, strict=True) if other == answer_type]
        if of_type:
            metrics[f"accuracy/{answer_type}"] = float(np.mean(of_type))
    return metrics


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    """Compute the score of a normalized prediction."""
    people, matches = len(answers), answers.count(prediction)
    if people <= _FULL_AGREEMENT + 1:
        return matches / people
    without_match = min((matches - 1) / _FULL_AGREEMENT, 1)
    without_other = min(matches / _FULL_AGREEMENT, 1)
    return (matches * without_match + (people - matches) * without_other) / people


def _answer_type(answers: Sequence[str]) -> str:
    answer = Counter(answers).most_common(1)[0][0]
    if answer in ("yes", "no"):
        return "yes_no"
    return "number" if _NUMBER.fullmatch(answer) else "other"


def _answer_list(name: str, given: str | Sequence[str]) -> Sequence[str]:
    """Return the answers to a question as a list."""
    if isinstance(given, str):
        return [given]
    check_list(name, given, advice=_ADVICE)
    if len(given) == 0:
        raise ValueError(f"`{name}` must not be empty. Add an answer, or remove the question.")
    check_strings(name, given, kind="answer")
    return given
