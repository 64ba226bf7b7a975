"""Tables of captions, and of questions with answers, as conversations about an image."""

import random
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import ConcatDataset, Dataset

from vlmkit.data.columns import pick
from vlmkit.data.pairs import CaptionPairs

CHAT_TASKS = ("captions", "questions")
CAPTION_PROMPTS = (
    "Describe this image.",
    "What does this picture show?",
    "Write a caption for this photo.",
    "What can be seen here?",
    "Tell me what is in this image.",
    "Give a short description of the picture.",
    "Summarize this photo in one sentence.",
    "What is happening in this picture?",
)

Message = dict[str, Any]


def user_message(text: str, image: Any = None, has_image: bool = True) -> Message:
    """What a user says, about an image or not.

    Args:
        text: the question.
        image: comes before it; if not given, the model takes cached `image_tokens` in its place.
        has_image: whether there is an image at all.

    Example:
        >>> user_message("Who is it?")["content"]
        [{'type': 'image'}, {'type': 'text', 'text': 'Who is it?'}]
    """
    shown = [{"type": "image"} if image is None else {"type": "image", "image": image}] if has_image else []
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def assistant_message(text: str) -> Message:
    """What the assistant says.

    Example:
        >>> assistant_message("A dog.")
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'A dog.'}]}
    """
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def caption_chat(row: dict[str, Any], prompts: Sequence[str] = CAPTION_PROMPTS) -> dict[str, Any]:
    """One row as a conversation: a request drawn from a list, and the first caption.

    A stream becomes one of conversations by `stream.map(caption_chat, remove_columns=stream.column_names)`. Which
    request an image gets depends on its `image_id` alone, and is the same in every epoch and process.

    Args:
        row: with `image` or cached `image_tokens`, `captions` (a list) and `image_id`.
        prompts: the requests.

    Raises:
        ValueError: the row has no caption, or there are no prompts.

    Example:
        >>> row = {"image_id": "a.jpg", "captions": ["A dog.", "A puppy."], "image_tokens": [[0.0], [1.0]]}
        >>> chat = caption_chat(row, ["What is it?"])
        >>> [message["content"][-1]["text"] for message in chat["messages"]], chat["image_tokens"].shape
        (['What is it?', 'A dog.'], torch.Size([1, 2, 1]))
    """
    _require_prompts(prompts)
    return _caption_chat(row, prompts, row["image_id"])


class CaptionChats(Dataset[dict[str, Any]]):
    """A view of a table with one conversation per image and caption: a request drawn from a list, and the caption.

    Which request a caption gets is drawn once, by its place in the table, and is the same in every epoch.

    Args:
        table: one row per image, with `image` or cached `image_tokens`, `captions` (a list) and `image_id`.
        prompts: the requests.

    Raises:
        ValueError: the table lacks a column or holds no caption, or there are no prompts.

    Example:
        >>> columns = {"image_id": ["a.jpg"], "captions": [["A dog.", "A puppy."]], "image_tokens": [[[0.0], [1.0]]]}
        >>> chats = CaptionChats(datasets.Dataset.from_dict(columns), ["What is it?"])
        >>> len(chats), chats[1]["messages"][1]["content"][0]["text"]
        (2, 'A puppy.')
    """

    def __init__(self, table: datasets.Dataset, prompts: Sequence[str] = CAPTION_PROMPTS):
        _require_images(table)
        _require_prompts(prompts)
        self.pairs = CaptionPairs(table)
        self.prompts = tuple(prompts)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Items by the batch, as `DataLoader` asks for them."""
        return [
            _caption_chat(row, self.prompts, index)
            for index, row in zip(indices, self.pairs.__getitems__(indices), strict=True)
        ]


class QuestionChats(Dataset[dict[str, Any]]):
    """A view of a table with questions and answers as conversations of some turns each about one image.

    Args:
        table: one row per image, with `image` or cached `image_tokens`, `questions` and `answers` (lists).
        max_turns: questions in a conversation; an image with more of them has several. All if not given.

    Raises:
        ValueError: the table lacks a column, a row has more or fewer answers than questions, `max_turns` is below 1,
            or there is no question.

    Example:
        >>> columns = {"questions": [["Red?", "Blue?"]], "answers": [["yes", "no"]], "image_tokens": [[[0.0], [1.0]]]}
        >>> table = datasets.Dataset.from_dict(columns)
        >>> [len(chat["messages"]) for chat in QuestionChats(table)], len(QuestionChats(table, max_turns=1))
        ([4], 2)
    """

    def __init__(self, table: datasets.Dataset, max_turns: int | None = None):
        _require_images(table)
        if missing := {"questions", "answers"} - set(table.column_names):
            raise ValueError(f"the table lacks {' and '.join(sorted(missing))}; its columns: {table.column_names}")
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns is {max_turns}; give 1 or more")
        self.table = table
        self._places: list[tuple[int, slice]] = []
        texts = table.select_columns(["questions", "answers"]).with_format(None)
        for row, record in enumerate(texts):
            count = len(record["questions"])
            if count != len(record["answers"]):
                raise ValueError(f"row {row} has {count} questions and {len(record['answers'])} answers")
            step = max_turns or max(count, 1)
            self._places += [(row, slice(start, start + step)) for start in range(0, count, step)]
        if not self._places:
            raise ValueError("the table holds no question")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, turns = self._places[index]
        record = self.table[row]
        return _chat(record, list(zip(record["questions"][turns], record["answers"][turns], strict=True)))


def chats_of(
    tables: Sequence[datasets.Dataset | datasets.IterableDataset],
    tasks: Sequence[str] = CHAT_TASKS,
    max_turns: int | None = None,
) -> ConcatDataset[dict[str, Any]] | datasets.IterableDataset | None:
    """Conversations about all captions and all questions of some tables.

    Args:
        tables: with `captions`, `questions` or both; or a single stream with `captions`, which becomes a stream.
        tasks: which of them to speak about: `"captions"`, `"questions"` or both.
        max_turns: see [`QuestionChats`].

    Returns:
        Conversations one table after the other, captions before questions; or None if there are none to be had.

    Raises:
        ValueError: an unknown task, a stream beside another table, or as [`CaptionChats`] and [`QuestionChats`] raise.

    Example:
        >>> columns = {"image_id": ["a.jpg"], "captions": [["A dog."]], "image_tokens": [[[0.0], [1.0]]]}
        >>> table = datasets.Dataset.from_dict(columns)
        >>> len(chats_of([table, table])), chats_of([table], tasks=["questions"])
        (2, None)
    """
    if unknown := set(tasks) - set(CHAT_TASKS):
        raise ValueError(f"tasks are {', '.join(CHAT_TASKS)}, and not {', '.join(sorted(unknown))}")
    streams = [place for place, table in enumerate(tables) if isinstance(table, datasets.IterableDataset)]
    if streams and len(tables) > 1:
        raise ValueError(
            f"table {streams[0]} is a stream, which can only be alone; drop the others, or read it into a table"
        )
    if streams:
        stream = tables[0]
        return stream.map(caption_chat, remove_columns=stream.column_names) if "captions" in tasks else None
    views: list[Any] = []
    for table in tables:
        if "captions" in tasks and "captions" in table.column_names:
            views.append(CaptionChats(table))
        if "questions" in tasks and "questions" in table.column_names:
            views.append(QuestionChats(table, max_turns))
    return ConcatDataset(views) if views else None


def _require_images(table: datasets.Dataset) -> None:
    if not {"image", "image_tokens"} & set(table.column_names):
        raise ValueError(f"the table has neither 'image' nor 'image_tokens', only {table.column_names}")


def _require_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise ValueError("there are no prompts; give at least one request for a caption")


def _caption_chat(row: dict[str, Any], prompts: Sequence[str], seed: int | str) -> dict[str, Any]:
    """The row's first caption, after the request that the seed draws."""
    caption = pick(row["image_id"], row["captions"], "first")
    return _chat(row, [(random.Random(seed).choice(prompts), caption)])


def _chat(row: dict[str, Any], turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A conversation whose first message shows the row's image."""
    tokens = row.get("image_tokens")
    messages: list[Message] = []
    for question, answer in turns:
        messages.append(user_message(question, None if tokens is not None else row["image"], has_image=not messages))
        messages.append(assistant_message(answer))
    if tokens is None:
        return {"messages": messages}
    return {"messages": messages, "image_tokens": torch.as_tensor(tokens)[None]}
