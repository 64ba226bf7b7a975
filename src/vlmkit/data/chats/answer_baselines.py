"""What can be answered about images without looking at them."""

from collections import Counter, defaultdict

from datasets import Dataset


def answer_baselines(train: Dataset, test: Dataset) -> dict[str, list[str]]:
    """Answer the test questions from the training answers alone, without the images; a model should do better.

    `majority` always gives the most frequent answer. `per_question` gives the most frequent answer to the same
    question, letter by letter, and the majority's to a question that training does not ask. If the test questions are
    distributed as the training ones, and each is asked often, the question alone allows no higher accuracy. Of equally
    frequent answers, the first counts.

    Args:
        train: a table with `questions` and `answers`, lists of equal length per row.
        test: the same.

    Returns:
        The answers of each baseline to all test questions, those of the first row first, as `vqa_accuracy` of
        `vlmkit.metrics` takes them.

    Raises:
        ValueError: a table lacks a column, has no questions, or a row has not one answer per question.

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
    """All questions of a table with their answers."""
    missing = {"questions", "answers"}.difference(table.column_names)
    if missing:
        raise ValueError(f"{name} lacks {' and '.join(sorted(missing))}; give a table of questions about images")
    pairs: list[tuple[str, str]] = []
    # By column: whole rows would be read with their images.
    for row, (questions, answers) in enumerate(zip(table["questions"], table["answers"], strict=True)):
        if len(questions) != len(answers):
            raise ValueError(
                f"{name}, row {row} has {len(questions)} questions and {len(answers)} answers; give one answer to each"
            )
        pairs += zip(questions, answers, strict=True)
    if not pairs:
        raise ValueError(f"{name} has no questions; give a table of questions about images")
    return pairs
