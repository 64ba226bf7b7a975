"""From rows of images and captions to the batches that captioning models train on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from vlmkit.data.batch_columns import choose_captions, get_cached_features, get_rgb_images
from vlmkit.validation import check_choice


@dataclass
class CaptionCollator:
    """Makes a batch of one image and one caption per row, for `Trainer(data_collator=...)`.

    A row has `image_id`, `captions` (a list), and an `image` or its cached `vision_features`, an `(N, D)` array.
    Where a row has both, the cached features are used. Trainer needs `remove_unused_columns=False`, as the model does
    not know these columns.

    The batch holds what the processor returns, usually `input_ids (B, T)`, `attention_mask (B, T)`, `labels (B, T)`
    with -100 at padding, and `pixel_values (B, C, H, W)` or in their place `vision_features (B, N, D)` in float32.

    Args:
        processor: called with `text`, `images` unless their features are cached, `return_labels=True` and
            `return_tensors="pt"`; it adds the tokens at the caption's start and end, pads and truncates.
        caption: "first" takes the first caption of each row; "random" draws one with torch's random numbers, which
            Trainer seeds; it restores them exactly where a checkpoint lies between epochs.
        augmentation: applied to each RGB image before the processor; none by default.

    Raises:
        ValueError: `caption` is unknown. On call: a column is missing or only in some rows, a row has no caption or
            an empty one, or images are to be augmented but come as features.

    Example:
        >>> import torch
        >>> def processor(text, return_labels, return_tensors):
        ...     return {"input_ids": torch.tensor([[len(word) for word in caption.split()] for caption in text])}
        >>> row = {"image_id": "a.jpg", "captions": ["A small dog."], "vision_features": [[0.0, 1.0], [2.0, 3.0]]}
        >>> batch = CaptionCollator(processor)([row, row])
        >>> batch["input_ids"].tolist(), batch["vision_features"].shape
        ([[1, 5, 4], [1, 5, 4]], torch.Size([2, 2, 2]))
    """

    processor: Callable[..., Mapping[str, Any]]
    caption: Literal["first", "random"] = "first"
    augmentation: Callable[[Image.Image], Image.Image] | None = None

    def __post_init__(self) -> None:
        check_choice("caption", self.caption, ("first", "random"))

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch."""
        inputs: dict[str, Any] = {"text": choose_captions(rows, self.caption)}
        vision_features = get_cached_features(rows, "vision_features", augmentation=self.augmentation)
        if vision_features is None:
            inputs["images"] = get_rgb_images(rows, self.augmentation)
        batch = dict(self.processor(**inputs, return_labels=True, return_tensors="pt"))
        return batch if vision_features is None else {**batch, "vision_features": vision_features}
