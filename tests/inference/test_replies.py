import pytest
import torch
from tests import tiny

from vlmkit import SmolVLM
from vlmkit.data import assistant_message, user_message
from vlmkit.inference import first_replies, reply_to_chats


@pytest.fixture
def model() -> SmolVLM:
    torch.manual_seed(0)
    text = tiny.llama_config(**tiny.CHAT_TOKENS, tie_word_embeddings=True, initializer_range=0.5)
    return SmolVLM(tiny.smolvlm_config(text_config=text)).eval()


def chats() -> list[dict]:
    """One image, two images, none; of different lengths."""
    return [
        {"messages": [user_message("is this a dog", image=tiny.photo())]},
        {
            "messages": [
                user_message("a photo", image=tiny.photo(seed=1)),
                assistant_message("a cat"),
                user_message("and this", image=tiny.photo(seed=2)),
            ]
        },
        {"messages": [user_message("is a tree green", has_image=False)]},
    ]


def test_replies_are_what_generate_writes_for_each_alone(model):
    processor = tiny.smolvlm_processor()
    options = {"do_sample": False, "min_new_tokens": 6, "max_new_tokens": 6}
    expected = []
    for chat in chats():
        inputs = processor.apply_chat_template(
            chat["messages"], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        written = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(written, skip_special_tokens=True).strip())
    assert len(set(expected)) == 3
    for batch_size in (1, 2, 3):
        assert reply_to_chats(model, processor, chats(), batch_size=batch_size, **options) == expected


def test_cached_tokens_give_the_same_replies(model):
    processor = tiny.smolvlm_processor()
    cached = []
    for chat in chats():
        images = [part.pop("image") for message in chat["messages"] for part in message["content"] if "image" in part]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"] if images else None
        tokens = None if pixels is None else model.model.vision_tower(pixels).last_hidden_state.detach()
        cached.append({**chat, "vision_features": tokens})
    options = {"do_sample": False, "max_new_tokens": 6}
    assert reply_to_chats(model, processor, cached, **options) == reply_to_chats(model, processor, chats(), **options)


def test_the_model_keeps_its_mode(model):
    model.train()
    reply_to_chats(model, tiny.smolvlm_processor(), chats(), max_new_tokens=1)
    assert model.training


def test_what_cannot_be_replied_to_is_refused(model):
    processor = tiny.smolvlm_processor()
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, but got 0"):
        reply_to_chats(model, processor, chats(), batch_size=0)
    with pytest.raises(ValueError, match="`num_return_sequences` must be 1, but got 2"):
        reply_to_chats(model, processor, chats(), num_return_sequences=2)
    answered = {"messages": [user_message("is this", has_image=False), assistant_message("a dog")]}
    with pytest.raises(
        ValueError, match="Conversation 3 must end with a message of the role 'user', but got 'assistant'"
    ):
        reply_to_chats(model, processor, [*chats(), answered], batch_size=2, max_new_tokens=1)
    assert reply_to_chats(model, processor, []) == []


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (
            {"image_id": "a.jpg", "captions": []},
            r"must have a non-empty list `messages`, .* keys are \['captions', 'image_id'\]",
        ),
        ({"messages": None}, "must have a non-empty list `messages`, but got None"),
        ({"messages": []}, r"must have a non-empty list `messages`, but got \[\]"),
        ({"messages": [{"content": "is this a dog"}]}, "must end with a message of the role 'user', but got None"),
    ],
)
def test_a_conversation_without_messages_or_roles_is_named(model, chat, message):
    with pytest.raises(ValueError, match=f"Conversation 3 {message}"):
        reply_to_chats(model, tiny.smolvlm_processor(), [*chats(), chat], batch_size=2, max_new_tokens=1)


def answered() -> list[dict]:
    """The conversations, each going on for a turn after its first one."""
    answers = [[assistant_message(answer), user_message("and this", has_image=False)] for answer in ("dog", "tree")]
    return [
        {"messages": [user_message("a photo", image=tiny.photo()), *answers[0]]},
        {"messages": [user_message("is a tree green", has_image=False), *answers[1]]},
    ]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_first_replies_stand_between_question_and_answer(model, count):
    processor, options = tiny.smolvlm_processor(), {"do_sample": False, "max_new_tokens": 6}
    asked = [{"messages": chat["messages"][:1]} for chat in answered()]
    replies = reply_to_chats(model, processor, asked, **options)
    expected = [("a photo", replies[0], "dog"), ("is a tree green", replies[1], "tree")]
    assert first_replies(model, processor, answered(), count=count, **options) == expected[:count]


def test_first_replies_of_nothing(model):
    assert first_replies(model, tiny.smolvlm_processor(), []) == []
    with pytest.raises(
        ValueError, match="Conversation 1 must start with a question and its answer, but has 0 messages"
    ):
        first_replies(model, tiny.smolvlm_processor(), [*answered()[:1], {"image_id": "a.jpg"}])
