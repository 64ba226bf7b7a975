"""Baselines of visual question answering that do not use the images."""

from collections import Counter, defaultdict

from datasets import Dataset


def answer_baselines(train: Dataset, test: Dataset) -> dict[str, list[str]]:
    """Predict answers to the test questions from the training answers alone.

    A model that uses the images should be more accurate than both baselines:

    - `majority` predicts the most frequent training answer for all questions.
    - `per_question` predicts the most frequent training answer to the identical question, or the prediction of
      `majority` for unknown questions. If training and test questions have the same distribution and each question is
      frequent, no model without images is more accurate.

    Ties are resolved in favor of the answer that occurs first.

    Args:
        train: Table with the columns `questions` and `answers`, two lists of equal length in each row.
        test: Table with the same columns.

    Returns:
        A dictionary from the name of each baseline to its predictions for all test questions, in the order of the
        table. The predictions have the format of `vlmkit.metrics.vqa_accuracy`.

    Raises:
        ValueError: If a table lacks a column, does not contain any questions, or has a row with different numbers of
            questions and answers.

    References:
        Antol et al., "VQA: Visual Question Answering" (arXiv:1505.00468), for similar baselines.

    Example:
        >>> columns = {"questions": [["what?", "is it?"], ["is it?"]], "answers": [["dog", "yes"], ["yes"]]}
        >>> train = Dataset.from_dict(columns)
        >>> test = Dataset.from_dict({"questions": [["what?", "where?"]], "answers": [["cat", "here"]]})
        >>> answer_baselines(train, test)
        {'majority': ['yes', 'yes'], 'per_question': ['dog', 'yes']}
    """
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in _pairs("train", train):
        overall[answer] += 1
        by_question[question][answer] += 1
    majority = _most_frequent(overall)
    best = {question: _most_frequent(counts) for question, counts in by_question.items()}
    asked = [question for question, _ in _pairs("test", test)]
    return {
        "majority": [majority] * len(asked),
        "per_question": [best.get(question, majority) for question in asked],
    }


def _most_frequent(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0]


def _pairs(name: str, table: Dataset) -> list[tuple[str, str]]:
    """Return all pairs of question and answer of a table."""
    missing = {"questions", "answers"}.difference(table.column_names)
    if missing:
        raise ValueError(
            f"`{name}` must have the columns questions and answers, but lacks {' and '.join(sorted(missing))}."
        )
    pairs: list[tuple[str, str]] = []
    # Reading whole rows would decode their images.
    for row, (questions, answers) in enumerate(zip(table["questions"], table["answers"], strict=True)):
        if len(questions) != len(answers):
            raise ValueError(
                f"`{name}`, row {row}: each question must have one answer, but got {len(questions)} questions and "
                f"{len(answers)} answers."
            )
        pairs += zip(questions, answers, strict=True)
    if not pairs:
        raise ValueError(f"`{name}` must contain at least one question, but got none.")
    return pairs
