"""Collator of images and captions for captioning models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from vlmkit.data.batch_columns import choose_captions, get_cached_features, get_rgb_images
from vlmkit.validation import check_choice


@dataclass
class CaptionCollator:
    """Collator of images and captions for training captioning models with `Trainer(data_collator=...)`.

    A row has `image_id`, `captions` (a list), and an `image` or its cached `vision_features (N, D)`, which take
    precedence. Set `remove_unused_columns=False` in `TrainingArguments`, because `Trainer` would drop these columns
    otherwise.

    The batch contains one image and one caption per row:

    - `input_ids (B, T)`, `attention_mask (B, T)` and `labels (B, T)`, which are -100 at padding.
    - `pixel_values (B, C, H, W)`, or `vision_features (B, N, D)` in float32.

    Args:
        processor: Processor of the model. It is called with `text`, `images` (unless the features are cached),
            `return_labels=True` and `return_tensors="pt"`, and must add special tokens, pad and truncate.
        caption: Caption of each row. `"first"` chooses the first one, and `"random"` draws one with torch's global
            random number generator. Random captions are reproduced exactly if training is resumed between epochs.
        augmentation: Function that is applied to each RGB image before the processor. Defaults to no augmentation.

    Raises:
        ValueError: If `caption` is unknown. On call, if a row lacks a column, a row does not have a caption, a
            caption is empty, or there is an augmentation for cached features.

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
