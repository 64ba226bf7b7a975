"""A table with captions and questions, and what the chats about it contain."""

import datasets
import torch
from tests import tiny

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
