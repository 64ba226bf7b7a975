"""Accuracy of answers to questions about images, as in VQA."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vlmkit.metrics.inputs import check_list, check_strings

_ADVICE = "give one prediction and the answers per question"
# Agreement with three of the other people who answered counts fully.
_FULL_AGREEMENT = 3

_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_NUMBER = re.compile(r"\d*\.?\d+")

# By ending. What would be another word without its apostrophe is not among them: she'll, we're, it's.
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
    """An answer in the form in which VQA compares answers.

    Lower case; without articles; zero to ten, and none, as digits; contractions with their apostrophes. Full stops go,
    except before a digit. Other punctuation goes if it stands beside a space somewhere in the answer, or if the answer
    has a comma between digits; else a space takes its place. An answer that is nothing but an article becomes empty.

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
    """Accuracy of one predicted answer per question against the right answer, or against the answers of several people.

    All answers are compared after [`normalize_answer`]. One right answer asks for exact match. With the answers of
    several people, usually ten, a prediction scores min(m / 3, 1), where m others gave it, averaged over leaving out
    each person in turn: of ten, one match scores 0.3, two 0.6, three 0.9 and four 1. With four people, that is the
    share of them who gave the prediction; with two or three, who have no three others to agree with, the score is that
    share as well.

    A question's type is that of its most frequent answer, the first of several: yes or no, a number, or other. VQA's
    own evaluation reads the types from the data set, and normalises predictions further than people's answers; here
    both are treated alike.

    Args:
        predictions: one answer per question.
        answers: the right answer of each question, or a list of answers; not necessarily as many for each.

    Returns:
        `accuracy`, the mean over all questions, and `accuracy/yes_no`, `accuracy/number` and `accuracy/other`, the
        means over the questions of each type that occurs; all fractions.

    Raises:
        TypeError: an answer is not a string, or a string or a dictionary stands where a list should.
        ValueError: there are no predictions, or not as many as questions; or a question has an empty list of answers.

    References:
        Antol et al., "VQA: Visual Question Answering" (arXiv:1505.00468), with the averaging of its published
        evaluation.

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
            f"{len(predictions)} predictions and {len(answers)} questions with answers; give one of each per question, "
            "for at least one question"
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
    """The score of one prediction; all answers are normalised."""
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
    """The answers of one question."""
    if isinstance(given, str):
        return [given]
    check_list(name, given, advice=_ADVICE)
    if len(given) == 0:
        raise ValueError(f"{name} is empty; give the question an answer or leave it out")
    check_strings(name, given, kind="answer")
    return given
