"""Conversations in which the assistant answers a prompt with a caption."""

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
"""Default prompts of [`CaptionChats`] and [`caption_chat`]."""


def caption_chat(row: dict[str, Any], prompts: Sequence[str] = CAPTION_PROMPTS) -> dict[str, Any]:
    """Convert a row to a conversation with one prompt and the first caption.

    The choice of the prompt depends only on `image_id`, so it is the same in every epoch and process. To convert a
    stream, use `stream.map(caption_chat, remove_columns=stream.column_names)`.

    Args:
        row: Row with `image` or cached `vision_features`, `captions` (a list) and `image_id`.
        prompts: Prompts to choose from at random.

    Returns:
        A dictionary with `messages`, and `vision_features (1, N, D)` if the row has cached features.

    Raises:
        ValueError: If the row does not have a caption, or `prompts` is empty.

    Example:
        >>> row = {"image_id": "a.jpg", "captions": ["A dog.", "A puppy."], "vision_features": [[0.0], [1.0]]}
        >>> chat = caption_chat(row, ["What is it?"])
        >>> [message["content"][-1]["text"] for message in chat["messages"]], chat["vision_features"].shape
        (['What is it?', 'A dog.'], torch.Size([1, 2, 1]))
    """
    _check_prompts(prompts)
    return _caption_chat(row, prompts, row["image_id"])


class CaptionChats(Dataset[dict[str, Any]]):
    """Data set with one conversation per image and caption.

    Each conversation consists of a prompt and the caption. The choice of the prompt depends only on the index of the
    conversation, so it is the same in every epoch. Items have the format of [`caption_chat`].

    Args:
        table: Table with one row per image, and the columns `image` or cached `vision_features`, `captions` (a list)
            and `image_id`.
        prompts: Prompts to choose from at random.

    Raises:
        ValueError: If the table lacks a column or does not contain any captions, or `prompts` is empty.

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
        """Return several items, which is much faster than item by item. `DataLoader` uses this method."""
        return [
            _caption_chat(row, self.prompts, index)
            for index, row in zip(indices, self.pairs.__getitems__(indices), strict=True)
        ]


def _check_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise ValueError("`prompts` must contain at least one prompt, but got none.")


def _caption_chat(row: dict[str, Any], prompts: Sequence[str], seed: int | str) -> dict[str, Any]:
    """Return a conversation with a random prompt, drawn with the seed, and the first caption of a row."""
    caption = choose_caption(row["image_id"], options=row["captions"], caption="first")
    return chat_about_row(row, [(random.Random(seed).choice(prompts), caption)])
