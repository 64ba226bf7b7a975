import datasets
import pytest
from tests import tiny
from tests.data.chats.chat_tables import said, shown, table

from vlmkit.data import (
    CAPTION_PROMPTS,
    CaptionChats,
    ChatCollator,
    caption_chat,
)


def test_every_caption_is_the_answer_to_a_request_from_the_list():
    chats = CaptionChats(table())
    assert [said(chat)[1] for chat in chats] == ["a dog", "a small dog", "a red star"]
    assert {said(chat)[0] for chat in chats} <= set(CAPTION_PROMPTS)
    assert all(shown(chat) == [1, 0] for chat in chats)
    assert [chat["messages"][0]["role"] for chat in chats] == ["user"] * 3


def test_requests_vary_with_the_caption_and_are_the_same_in_every_epoch():
    rows = datasets.Dataset.from_dict(
        {"image_id": list("abcd"), "captions": [["x"] * 10] * 4, "vision_features": [[[0.0]]] * 4}
    )
    first, second = ([said(chat)[0] for chat in CaptionChats(rows.with_format("torch"))] for _ in range(2))
    assert first == second
    assert set(first) == set(CAPTION_PROMPTS)


def test_a_row_becomes_a_conversation_of_its_first_caption():
    row = table()[0]
    chat = caption_chat(row)
    assert said(chat)[1] == "a dog"
    assert shown(chat) == [1, 0]
    assert chat["messages"][0]["content"][0]["image"] is row["image"]
    cached = caption_chat(table(cached=True)[0])
    assert said(cached) == said(chat)
    assert cached["vision_features"].shape == (1, 3, 2)


def test_the_request_for_a_rows_caption_depends_on_its_image():
    rows = [{"image_id": f"{number}.jpg", "captions": ["x"], "vision_features": [[0.0]]} for number in range(60)]
    requests = [said(caption_chat(row))[0] for row in rows]
    assert requests == [said(caption_chat(row))[0] for row in rows]
    assert set(requests) == set(CAPTION_PROMPTS)
    assert {said(caption_chat(row, ["Which?"]))[0] for row in rows} == {"Which?"}


def test_a_stream_becomes_one_of_conversations():
    stream = table().to_iterable_dataset()
    chats = list(stream.map(caption_chat, remove_columns=stream.column_names))
    assert [said(chat)[1] for chat in chats] == ["a dog", "a red star"]
    assert ChatCollator(tiny.smolvlm_processor())(chats)["pixel_values"].shape == (2, 3, 32, 32)


def test_a_row_without_a_caption_is_refused():
    row = {"image_id": "a.jpg", "captions": [], "vision_features": [[0.0]]}
    with pytest.raises(ValueError, match=r"image a\.jpg does not have a caption"):
        caption_chat(row)
    with pytest.raises(ValueError, match="`prompts` must contain at least one prompt"):
        caption_chat({**row, "captions": ["x"]}, [])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["captions", "image_id"], "the column 'image' or 'vision_features'"),
        (["image", "image_id"], "lacks 'captions'"),
    ],
)
def test_tables_without_a_column_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        CaptionChats(table().select_columns(columns))


def test_no_prompts():
    with pytest.raises(ValueError, match="`prompts` must contain at least one prompt"):
        CaptionChats(table(), [])
