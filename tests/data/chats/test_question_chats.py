import datasets
import pytest
from tests.data.chats.chat_tables import COLUMNS, said, shown, table

from vlmkit.data import (
    QuestionChats,
)


@pytest.mark.parametrize(
    ("max_turns", "lengths"), [(None, [6, 2]), (1, [2, 2, 2, 2]), (2, [4, 2, 2]), (3, [6, 2]), (9, [6, 2])]
)
def test_questions_are_cut_into_conversations_that_show_the_image_once(max_turns, lengths):
    chats = QuestionChats(table(), max_turns)
    assert len(chats) == len(lengths)
    assert [len(chats[row]["messages"]) for row in range(len(chats))] == lengths
    assert [shown(chats[row]) for row in range(len(chats))] == [[1] + [0] * (length - 1) for length in lengths]
    texts = [text for row in range(len(chats)) for text in said(chats[row])]
    pairs = [pair for row in range(2) for pair in zip(COLUMNS["questions"][row], COLUMNS["answers"][row], strict=True)]
    assert texts == [text for pair in pairs for text in pair]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["questions", "answers"], "the column 'image' or 'vision_features'"),
        (["image", "questions"], "lacks 'answers'"),
    ],
)
def test_tables_without_a_column_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        QuestionChats(table().select_columns(columns))


def test_tables_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="`max_turns` must be at least 1, but got 0"):
        QuestionChats(table(), 0)
    odd = datasets.Dataset.from_dict({"vision_features": [[[0.0]]], "questions": [["a", "b"]], "answers": [["c"]]})
    with pytest.raises(
        ValueError, match="Row 0: each question must have one answer, but got 2 questions and 1 answers"
    ):
        QuestionChats(odd)
    empty = datasets.Dataset.from_dict({"vision_features": [[[0.0]]], "questions": [[]], "answers": [[]]})
    with pytest.raises(ValueError, match="must contain at least one question"):
        QuestionChats(empty)
