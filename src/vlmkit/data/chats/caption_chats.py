"""Captions as conversations: a request, answered by a caption."""

import random
from collections.abc import Sequence
from typing import Any

import datasets
from torch.utils.data import Dataset

from vlmkit.data.batch_columns import choose_caption
from vlmkit.data.caption_pairs import CaptionPairs
from vlmkit.data.chats.messages import chat_about_row
from vlmkit.data.table_checks import check_has_images

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


def caption_chat(row: dict[str, Any], prompts: Sequence[str] = CAPTION_PROMPTS) -> dict[str, Any]:
    """One row as a conversation: a request drawn from a list, and the first caption.

    A stream becomes one of conversations by `stream.map(caption_chat, remove_columns=stream.column_names)`. Which
    request an image gets depends on its `image_id` alone, and is the same in every epoch and process.

    Args:
        row: with `image` or cached `vision_features`, `captions` (a list) and `image_id`.
        prompts: the requests.

    Raises:
        ValueError: the row has no caption, or there are no prompts.

    Example:
        >>> row = {"image_id": "a.jpg", "captions": ["A dog.", "A puppy."], "vision_features": [[0.0], [1.0]]}
        >>> chat = caption_chat(row, ["What is it?"])
        >>> [message["content"][-1]["text"] for message in chat["messages"]], chat["vision_features"].shape
        (['What is it?', 'A dog.'], torch.Size([1, 2, 1]))
    """
    _check_prompts(prompts)
    return _caption_chat(row, prompts, row["image_id"])


class CaptionChats(Dataset[dict[str, Any]]):
    """A view of a table with one conversation per image and caption: a request drawn from a list, and the caption.

    Which request a caption gets is drawn once, by its place in the table, and is the same in every epoch.

    Args:
        table: one row per image, with `image` or cached `vision_features`, `captions` (a list) and `image_id`.
        prompts: the requests.

    Raises:
        ValueError: the table lacks a column or holds no caption, or there are no prompts.

    Example:
        >>> columns = {"image_id": ["a.jpg"], "captions": [["A dog.", "A puppy."]], "vision_features": [[[0.0], [1.0]]]}
        >>> chats = CaptionChats(datasets.Dataset.from_dict(columns), ["What is it?"])
        >>> len(chats), chats[1]["messages"][1]["content"][0]["text"]
        (2, 'A puppy.')
    """

    def __init__(self, table: datasets.Dataset, prompts: Sequence[str] = CAPTION_PROMPTS):
        check_has_images(table)
        _check_prompts(prompts)
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


def _check_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise ValueError("there are no prompts; give at least one request for a caption")


def _caption_chat(row: dict[str, Any], prompts: Sequence[str], seed: int | str) -> dict[str, Any]:
    """The row's first caption, after the request that the seed draws."""
    caption = choose_caption(row["image_id"], options=row["captions"], caption="first")
    return chat_about_row(row, [(random.Random(seed).choice(prompts), caption)])
