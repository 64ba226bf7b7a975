"""From rows of images and captions to the batches that contrastive models take."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from vlmkit.data.batch_columns import (
    choose_caption,
    choose_captions,
    get_cached_features,
    get_column,
    get_required_column,
    get_rgb_images,
    stack_features,
)
from vlmkit.validation import check_choice


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

    A row has `image_id`, an `image` or its cached features, `image_pooled` (a vector) or `vision_features` (an `(N, D)`
    array), and `captions` (a list) or their cached features `text_pooled` (one vector per caption). Where a row has
    both, the cached features are used. Trainer needs `remove_unused_columns=False`, as the model does not know these
    columns.

    The batch holds what the processor returns, usually `pixel_values (B, C, H, W)`, `input_ids (B, T)` and
    `attention_mask (B, T)`, or in their place `image_pooled (B, D_image)` or `vision_features (B, N, D)`, and
    `text_pooled (B, D_text)`, all in float32; and `group_ids (B,)`, equal for equal images, so that a loss does not
    push an image away from its other captions.

    Args:
        processor: called for what is not cached; its defaults must pad and truncate. Not needed if both are cached.
        caption: "first" takes the first caption of each row; "random" draws one with torch's random numbers, which
            Trainer seeds; it restores them exactly where a checkpoint lies between epochs.
        augmentation: applied to each RGB image before the processor; none by default.

    Raises:
        ValueError: `caption` is unknown. On call: a column is missing or only in some rows, a row has no caption or
            an empty one, a processor is needed and not given, or images are to be augmented but come as features, or
            come as two kinds of them.
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
        check_choice("caption", self.caption, ("first", "random"))

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch."""
        image_ids = get_required_column(rows, "image_id")
        batch = {"group_ids": torch.tensor([group_id(image_id) for image_id in image_ids])}
        uncached: dict[str, list[Any]] = {}

        features = {
            name: get_cached_features(rows, name, augmentation=self.augmentation)
            for name in ("image_pooled", "vision_features")
        }
        cached = {name: feature for name, feature in features.items() if feature is not None}
        if len(cached) == 2:
            raise ValueError(
                "the rows hold both image_pooled and vision_features; drop the column that the model ignores"
            )
        if not cached:
            uncached["images"] = get_rgb_images(rows, self.augmentation)
        batch.update(cached)

        text_pooled = get_column(rows, "text_pooled")
        if text_pooled is None:
            uncached["text"] = choose_captions(rows, self.caption)
        else:
            pairs = zip(image_ids, text_pooled, strict=True)
            batch["text_pooled"] = stack_features(
                [choose_caption(image_id, options=options, caption=self.caption) for image_id, options in pairs]
            )

        if uncached:
            if self.processor is None:
                raise ValueError(f"the rows hold {' and '.join(uncached)}, not features: give the collator a processor")
            batch.update(self.processor(**uncached, return_tensors="pt"))
        return batch
