import pytest
from tests.data.chats.chat_tables import said, table

from vlmkit.data import (
    QuestionChats,
    build_chat_dataset,
)


def test_tables_are_spoken_about_one_after_the_other():
    both, captions = table(), table().remove_columns(["questions", "answers"])
    chats = build_chat_dataset([both, captions], max_turns=2)
    answers = ["a dog", "a small dog", "a red star"]
    assert [said(chat)[1] for chat in chats] == [*answers, "a dog", "red", "star", *answers]
    assert [said(chat) for chat in build_chat_dataset([both, captions], ["questions"])] == [
        said(chat) for chat in QuestionChats(both)
    ]


def test_nothing_to_speak_about():
    assert build_chat_dataset([]) is None
    assert build_chat_dataset([table().remove_columns("captions")], ["captions"]) is None


def test_only_captions_of_a_stream():
    stream = table().to_iterable_dataset()
    assert [said(chat)[1] for chat in build_chat_dataset([stream])] == ["a dog", "a red star"]
    assert build_chat_dataset([stream], ["questions"]) is None


def test_an_unknown_task():
    with pytest.raises(ValueError, match="`tasks` must only contain 'captions', 'questions', but got 'answers'"):
        build_chat_dataset([table()], ["captions", "answers"])


def test_a_stream_beside_a_table():
    with pytest.raises(
        ValueError, match="a single stream or only tables, but got 2 entries, of which number 1 is a stream"
    ):
        build_chat_dataset([table(), table().to_iterable_dataset()])
