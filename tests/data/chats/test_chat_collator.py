import pytest
import torch
from tests import tiny
from tests.data.chats.chat_tables import table

from vlmkit.data import (
    CaptionChats,
    ChatCollator,
    QuestionChats,
    assistant_message,
    user_message,
)


def test_a_batch_learns_what_the_assistant_says():
    processor = tiny.smolvlm_processor()
    batch = ChatCollator(processor)([CaptionChats(table())[0], QuestionChats(table())[0]])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    learnt = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert learnt == ["a dog <|im_end|>", "a dog <|im_end|> the dog <|im_end|> red <|im_end|>"]


def test_a_batch_of_cached_tokens_has_them_in_the_order_of_the_rows():
    captions, questions = CaptionChats(table(cached=True)), QuestionChats(table(cached=True))
    batch = ChatCollator(tiny.smolvlm_processor())([captions[2], questions[0]])
    assert "pixel_values" not in batch
    assert torch.equal(batch["vision_features"], torch.arange(12.0).view(2, 3, 2).flip(0))
    assert (batch["input_ids"] == tiny.IMAGE_TOKEN_ID).sum(dim=1).tolist() == [3, 3]


def test_conversations_without_images_go_with_cached_ones():
    text_only = {"messages": [user_message("a photo", has_image=False), assistant_message("a cat")]}
    batch = ChatCollator(tiny.smolvlm_processor())([text_only, CaptionChats(table(cached=True))[0]])
    assert (batch["input_ids"] == tiny.IMAGE_TOKEN_ID).sum(dim=1).tolist() == [0, 3]
    assert len(batch["vision_features"]) == 1


def test_each_conversation_has_its_own_tokens():
    """The sums alone may agree."""
    more, fewer = CaptionChats(table(cached=True))[0], CaptionChats(table(cached=True))[2]
    more["vision_features"], fewer["vision_features"] = more["vision_features"].repeat(2, 1, 1), None
    with pytest.raises(
        ValueError, match=r"Conversation 0 must have .* its 1 image parts without an image, but got features of 2"
    ):
        ChatCollator(tiny.smolvlm_processor())([more, fewer])


def test_rows_of_both_kinds_are_no_batch():
    with pytest.raises(ValueError, match="must contain either images or `vision_features`, but got both"):
        ChatCollator(tiny.smolvlm_processor())([CaptionChats(table(cached=True))[0], CaptionChats(table())[0]])
    with pytest.raises(ValueError, match=r"must have the column 'messages', but got \['captions'\]"):
        ChatCollator(tiny.smolvlm_processor())([{"captions": ["a dog"]}])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user"}], "Message 0"),
        (
            [{"role": "user", "content": [{"text": "a dog"}]}],
            "`type` of a part of message 0 must be one of .*, but got None",
        ),
        ([{"role": "user", "content": ["a dog"]}], "message 0"),
    ],
)
def test_malformed_messages_are_named(messages, message):
    with pytest.raises(ValueError, match=message):
        ChatCollator(tiny.smolvlm_processor())([{"messages": messages}])
