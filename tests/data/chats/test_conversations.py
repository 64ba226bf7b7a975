import datasets
import pytest
import torch
from tests import tiny
from tests.subprocesses import run_python

from vlmkit.data import (
    CAPTION_PROMPTS,
    CaptionChats,
    ChatCollator,
    QuestionChats,
    assistant_message,
    build_chat_dataset,
    caption_chat,
    user_message,
)

COLUMNS = {
    "image_id": ["a.jpg", "b.jpg"],
    "captions": [["a dog", "a small dog"], ["a red star"]],
    "questions": [["is this a dog", "is this a cat", "red"], ["circle"]],
    "answers": [["a dog", "the dog", "red"], ["star"]],
}


def table(cached: bool = False) -> datasets.Dataset:
    if cached:
        columns = {**COLUMNS, "vision_features": torch.arange(12.0).view(2, 3, 2).tolist()}
        return datasets.Dataset.from_dict(columns).with_format("torch", ["vision_features"], output_all_columns=True)
    images = [tiny.photo(seed=row) for row in range(2)]
    return datasets.Dataset.from_dict({**COLUMNS, "image": images}).cast_column("image", datasets.Image())


def said(chat: dict) -> list[str]:
    return [message["content"][-1]["text"] for message in chat["messages"]]


def shown(chat: dict) -> list[int]:
    return [sum(part["type"] == "image" for part in message["content"]) for message in chat["messages"]]


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
    code = "from vlmkit.data import caption_chat\nfor number in range(60):\n    "
    code += "row = {'image_id': f'{number}.jpg', 'captions': ['x'], 'vision_features': [[0.0]]}\n    "
    code += "print(caption_chat(row)['messages'][0]['content'][-1]['text'])"
    assert run_python("-c", code).splitlines() == requests


def test_a_stream_becomes_one_of_conversations():
    stream = table().to_iterable_dataset()
    chats = list(stream.map(caption_chat, remove_columns=stream.column_names))
    assert [said(chat)[1] for chat in chats] == ["a dog", "a red star"]
    assert ChatCollator(tiny.smolvlm_processor())(chats)["pixel_values"].shape == (2, 3, 32, 32)


def test_a_row_without_a_caption_is_refused():
    row = {"image_id": "a.jpg", "captions": [], "vision_features": [[0.0]]}
    with pytest.raises(ValueError, match=r"image a\.jpg has no caption"):
        caption_chat(row)
    with pytest.raises(ValueError, match="there are no prompts"):
        caption_chat({**row, "captions": ["x"]}, [])


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


def test_a_batch_learns_what_the_assistant_says():
    processor = tiny.smolvlm_processor()
    batch = ChatCollator(processor)([CaptionChats(table())[0], QuestionChats(table())[0]])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    learnt = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert learnt == ["a dog <|im_end|>", "a dog <|im_end|> the dog <|im_end|> red <|im_end|>"]


def test_a_batch_of_cached_tokens_has_them_in_the_order_of_the_rows():
    crops = CaptionChats(table(cached=True)), QuestionChats(table(cached=True))
    batch = ChatCollator(tiny.smolvlm_processor())([crops[0][2], crops[1][0]])
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
    with pytest.raises(ValueError, match="conversation 0 has 1 image parts without an image, and vision_features of 2"):
        ChatCollator(tiny.smolvlm_processor())([more, fewer])


def test_rows_of_both_kinds_are_no_batch():
    with pytest.raises(ValueError, match="some conversations hold images, and others vision_features"):
        ChatCollator(tiny.smolvlm_processor())([CaptionChats(table(cached=True))[0], CaptionChats(table())[0]])
    with pytest.raises(ValueError, match=r"the rows have no 'messages', only \['captions'\]"):
        ChatCollator(tiny.smolvlm_processor())([{"captions": ["a dog"]}])


def test_messages():
    assert user_message("Who?", has_image=False)["content"] == [{"type": "text", "text": "Who?"}]
    assert user_message("Who?", image="a.jpg")["content"][0] == {"type": "image", "image": "a.jpg"}
    assert assistant_message("A dog.")["role"] == "assistant"


@pytest.mark.parametrize(
    ("view", "columns", "message"),
    [
        (CaptionChats, ["captions", "image_id"], "neither 'image' nor 'vision_features'"),
        (CaptionChats, ["image", "image_id"], "lacks captions"),
        (QuestionChats, ["questions", "answers"], "neither 'image' nor 'vision_features'"),
        (QuestionChats, ["image", "questions"], "lacks answers"),
    ],
)
def test_tables_without_a_column_are_refused(view, columns, message):
    with pytest.raises(ValueError, match=message):
        view(table().select_columns(columns))


def test_tables_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="there are no prompts"):
        CaptionChats(table(), [])
    with pytest.raises(ValueError, match="max_turns is 0"):
        QuestionChats(table(), 0)
    odd = datasets.Dataset.from_dict({"vision_features": [[[0.0]]], "questions": [["a", "b"]], "answers": [["c"]]})
    with pytest.raises(ValueError, match="row 0 has 2 questions and 1 answers"):
        QuestionChats(odd)
    empty = datasets.Dataset.from_dict({"vision_features": [[[0.0]]], "questions": [[]], "answers": [[]]})
    with pytest.raises(ValueError, match="holds no question"):
        QuestionChats(empty)


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
    with pytest.raises(ValueError, match="tasks are captions, questions, and not answers"):
        build_chat_dataset([table()], ["captions", "answers"])


def test_a_stream_beside_a_table():
    with pytest.raises(ValueError, match="table 1 is a stream, which can only be alone; drop the others"):
        build_chat_dataset([table(), table().to_iterable_dataset()])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user"}], "Message 0"),
        ([{"role": "user", "content": [{"text": "a dog"}]}], "the type of a part of message 0 is None"),
        ([{"role": "user", "content": ["a dog"]}], "message 0"),
    ],
)
def test_malformed_messages_are_named(messages, message):
    with pytest.raises(ValueError, match=message):
        ChatCollator(tiny.smolvlm_processor())([{"messages": messages}])
