"""From rows of images and captions to the batches that contrastive models take."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from vlmkit.images import to_rgb
from vlmkit.validation import one_of


def group_id(image_id: str) -> int:
    """A number from 0 to 2^63 - 1 for an image, the same in every process, epoch and session.

    Args:
        image_id: the image's name.

    Raises:
        TypeError: it is not a string.

    Example:
        >>> group_id("1000268201_693b08cb0e.jpg")
        4769461703622052916
    """
    if not isinstance(image_id, str):
        raise TypeError(f"image_id {image_id!r} is of type {type(image_id).__name__}; make it a string")
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big") >> 1


@dataclass
class ContrastiveCollator:
    """Makes a batch of one image and one caption per row, for `Trainer(data_collator=...)`.

    A row has `image_id`, an `image` or its cached features `image_pooled` (a vector), and `captions` (a list) or their
    cached features `text_pooled` (one vector per caption). Where a row has both, the cached features are used.
    Trainer needs `remove_unused_columns=False`, as the model does not know these columns.

    The batch holds what the processor returns, usually `pixel_values (B, C, H, W)`, `input_ids (B, T)` and
    `attention_mask (B, T)`, or in their place `image_pooled (B, D_image)` and `text_pooled (B, D_text)`; and
    `group_ids (B,)`, equal for equal images, so that a loss does not push an image away from its other captions.

    Args:
        processor: called for what is not cached; its defaults must pad and truncate. Not needed if both are cached.
        caption: "first" takes the first caption of each row; "random" draws one with torch's random numbers, which
            Trainer seeds and restores.
        augmentation: applied to each RGB image before the processor; none by default.

    Raises:
        ValueError: `caption` is unknown. On call: a column is missing or only in some rows, a row has no caption or
            an empty one, a processor is needed and not given, or images are to be augmented but come as features.
        TypeError: on call: an `image_id` is not a string.

    Example:
        >>> row = {"image_id": "a.jpg", "image_pooled": [0.0, 1.0], "text_pooled": [[1.0], [2.0]]}
        >>> batch = ContrastiveCollator()([row])
        >>> batch["image_pooled"].tolist(), batch["text_pooled"].tolist(), batch["group_ids"].shape
        ([[0.0, 1.0]], [[1.0]], torch.Size([1]))
    """

    processor: ProcessorMixin | None = None
    caption: Literal["first", "random"] = "first"
    augmentation: Callable[[Image.Image], Image.Image] | None = None

    def __post_init__(self) -> None:
        one_of("caption", self.caption, ("first", "random"))

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch."""
        image_ids = _required_column(rows, "image_id")
        batch = {"group_ids": torch.tensor([group_id(image_id) for image_id in image_ids])}
        uncached: dict[str, list[Any]] = {}

        image_features = _column(rows, "image_pooled")
        if image_features is None:
            uncached["images"] = [self._prepare(image) for image in _required_column(rows, "image")]
        elif self.augmentation is not None:
            raise ValueError("augmentation together with cached features changes nothing; give up one of them")
        else:
            batch["image_pooled"] = _stack(image_features)

        text_features = _column(rows, "text_pooled")
        if text_features is None:
            captions = _required_column(rows, "captions")
            for image_id, texts in zip(image_ids, captions, strict=True):
                _check_captions(image_id, texts)
            uncached["text"] = [self._pick(*row) for row in zip(image_ids, captions, strict=True)]
        else:
            batch["text_pooled"] = _stack([self._pick(*row) for row in zip(image_ids, text_features, strict=True)])

        if uncached:
            if self.processor is None:
                raise ValueError(f"the rows hold {' and '.join(uncached)}, not features: give the collator a processor")
            batch.update(self.processor(**uncached, return_tensors="pt"))
        return batch

    def _prepare(self, image: Image.Image) -> Image.Image:
        image = to_rgb(image)
        return image if self.augmentation is None else self.augmentation(image)

    def _pick(self, image_id: str, options: Sequence[Any]) -> Any:
        """One caption of a row, or its features."""
        if len(options) == 0:
            raise ValueError(f"image {image_id} has no caption; drop it")
        return options[0 if self.caption == "first" else int(torch.randint(len(options), ()))]


def _column(rows: Sequence[dict[str, Any]], name: str) -> list[Any] | None:
    """The values of a column that all rows have, or None if no row has it."""
    values = [row.get(name) for row in rows]
    present = sum(value is not None for value in values)
    if 0 < present < len(rows):
        raise ValueError(f"only {present} of {len(rows)} rows have {name!r}; a batch needs it in all rows or in none")
    return values if present else None


def _required_column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    values = _column(rows, name)
    if values is None:
        raise ValueError(f"the rows have no {name!r}, only {sorted(rows[0])}; give Trainer remove_unused_columns=False")
    return values


def _check_captions(image_id: str, captions: Sequence[str]) -> None:
    if isinstance(captions, str):
        raise ValueError(f"image {image_id}: captions is the string {captions!r}; make it a list of strings")
    if not all(caption and caption.strip() for caption in captions):
        raise ValueError(f"image {image_id} has an empty caption among {list(captions)}; drop it")


def _stack(vectors: Sequence[Any]) -> Tensor:
    """Vectors as a float32 tensor `(B, D)`."""
    return torch.stack([torch.as_tensor(vector, dtype=torch.float32) for vector in vectors])
