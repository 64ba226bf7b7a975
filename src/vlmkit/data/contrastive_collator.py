"""Collator of images and captions for contrastive models."""

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
    """Compute a 63-bit hash of an image id, to use as a group id in contrastive losses.

    The hash is the same in all processes, epochs and Python sessions.

    Args:
        image_id: Id of the image, such as its file name.

    Returns:
        An integer from 0 to 2^63 - 1.

    Raises:
        TypeError: If `image_id` is not a string.

    Example:
        >>> group_id("1000268201_693b08cb0e.jpg")
        4769461703622052916
    """
    if not isinstance(image_id, str):
        raise TypeError(f"`image_id` must be a string, but got {image_id!r} of type {type(image_id).__name__}.")
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big") >> 1


@dataclass
class ContrastiveCollator:
    """Collator of images and captions for training contrastive models with `Trainer(data_collator=...)`.

    A row has `image_id`, and

    - an `image`, or its cached features `image_pooled (D_image,)` or `vision_features (N, D)`.
    - `captions` (a list), or their cached features `text_pooled (num_captions, D_text)`.

    Cached features take precedence. Set `remove_unused_columns=False` in `TrainingArguments`, because `Trainer` would
    drop these columns otherwise.

    The batch contains one image and one caption per row:

    - `pixel_values (B, C, H, W)`, or `image_pooled (B, D_image)` or `vision_features (B, N, D)` in float32.
    - `input_ids (B, T)` and `attention_mask (B, T)`, or `text_pooled (B, D_text)` in float32.
    - `group_ids (B,)`, which are equal for rows of the same image. Contrastive losses use them to exclude other
      captions of an image from its negatives.

    Args:
        processor: Processor of the model, whose defaults must pad and truncate. Not required if the features of images
            and captions are cached.
        caption: Caption of each row. `"first"` chooses the first one, and `"random"` draws one with torch's global
            random number generator. Random captions are reproduced exactly if training is resumed between epochs.
        augmentation: Function that is applied to each RGB image before the processor. Defaults to no augmentation.

    Raises:
        ValueError: If `caption` is unknown. On call, if a row lacks a column, a row does not have a caption, a
            caption is empty, the processor is missing, there is an augmentation for cached features, or the
            rows have both kinds of image features.
        TypeError: If, on call, an `image_id` is not a string.

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
                "The rows must have either 'image_pooled' or 'vision_features', but got both. Drop the column that the "
                "model does not use."
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
                raise ValueError(
                    f"`processor` must not be `None` for rows without cached features of {' and '.join(uncached)}. "
                    "Pass the processor of the model."
                )
            batch.update(self.processor(**uncached, return_tensors="pt"))
        return batch
