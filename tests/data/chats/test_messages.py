from tests.data.chats.chat_tables import table

from vlmkit.data import (
    CaptionChats,
    QuestionChats,
    assistant_message,
    user_message,
)


def test_tokens_may_be_lists():
    rows = table(cached=True).with_format(None)
    expected = [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]
    assert CaptionChats(rows)[0]["vision_features"].tolist() == expected
    assert QuestionChats(rows)[0]["vision_features"].tolist() == expected


def test_cached_tokens_stand_beside_the_messages():
    chat = CaptionChats(table(cached=True))[2]
    assert chat["messages"][0]["content"][0] == {"type": "image"}
    assert chat["vision_features"].tolist() == [[[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]]
    assert "vision_features" not in CaptionChats(table())[2]


def test_messages():
    assert user_message("Who?", has_image=False)["content"] == [{"type": "text", "text": "Who?"}]
    assert user_message("Who?", image="a.jpg")["content"][0] == {"type": "image", "image": "a.jpg"}
    assert assistant_message("A dog.")["role"] == "assistant"
