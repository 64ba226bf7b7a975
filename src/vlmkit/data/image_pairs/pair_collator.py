"""Collator of image pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vlmkit.data.batch_columns import get_required_column
from vlmkit.data.image_pairs.mixing import cut_mix, mix_up
from vlmkit.validation import check_at_least, check_choice

_MIXTURES = {"mix_up": mix_up, "cut_mix": cut_mix}


@dataclass
class PairCollator:
    """Collator of items of [`ImagePairs`] for `Trainer(data_collator=...)`.

    The images are augmented independently, optionally mixed with another pair, and then passed to the processor, which
    joins left and right. The caption id of a pair is `num_classes * left label + right label`.

    The batch contains

    - `pixel_values (B, 3, S, 2S)` from the processor.
    - `caption_ids (B,)` in int64. For mixed pairs, the shape is `(B, 4)`, because left and right each have two classes.
    - `caption_weights (B, 4)` for mixed pairs only: the product of the weights of the left and right class. The weights
      of a pair sum to 1. If the two classes of a side are equal, a caption id is repeated, and its weights add up.

    `Trainer` uses the same collator for training and evaluation. Evaluate with a separate `Trainer` whose collator has
    neither `augmentation` nor `mix`.

    Args:
        processor: Processor of the model, called with `images (B, 2, 3, H, W)` in uint8 and `return_tensors="pt"`.
        num_classes: Number of classes, such as `ImagePairs.num_classes`.
        augmentation: Function of uint8 images `(N, 3, H, W)`, such as [`ImageAugmentation`]. Defaults to no
            augmentation.
        mix: `"mix_up"` for [`mix_up`], `"cut_mix"` for [`cut_mix`], or `None` for no mixing.
        mix_alpha: Parameter of the Beta distribution of the weights, greater than 0.

    Raises:
        ValueError: If `mix` is unknown, `num_classes` is less than 1, or `mix_alpha` is not positive. On call, if an
            item lacks `images` or `labels`, or a label is out of range.

    Example:
        >>> def processor(images, return_tensors):
        ...     return {"pixel_values": torch.cat([images[:, 0], images[:, 1]], dim=-1) / 255}
        >>> item = {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.tensor([3, 1])}
        >>> batch = PairCollator(processor, num_classes=10)([item, item])
        >>> batch["pixel_values"].shape, batch["caption_ids"]
        (torch.Size([2, 3, 8, 16]), tensor([31, 31]))
    """

    processor: Callable[..., Mapping[str, Any]]
    num_classes: int
    augmentation: Callable[[Tensor], Tensor] | None = None
    mix: Literal["mix_up", "cut_mix"] | None = None
    mix_alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.mix is not None:
            check_choice("mix", self.mix, _MIXTURES)
        check_at_least("num_classes", self.num_classes)
        if not self.mix_alpha > 0:
            raise ValueError(f"`mix_alpha` must be positive, but got {self.mix_alpha}.")

    def __call__(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Collate pairs into a batch."""
        images, labels = (torch.stack(get_required_column(items, name)) for name in ("images", "labels"))
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"`labels` must be from 0 to {self.num_classes - 1}, but got values from {labels.min()} to "
                f"{labels.max()}. Pass the `num_classes` of the data set to the collator."
            )
        if self.augmentation is not None:
            images = self.augmentation(images.flatten(0, 1)).unflatten(0, (-1, 2))
        if self.mix is None:
            captions = {"caption_ids": self.num_classes * labels[:, 0] + labels[:, 1]}
        else:
            images, weights, partners = _MIXTURES[self.mix](images, self.mix_alpha)
            captions = self._mixed_captions(labels, labels[partners], weights)
        return {"pixel_values": self.processor(images=images, return_tensors="pt")["pixel_values"], **captions}

    def _mixed_captions(self, own: Tensor, partners: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return ids and weights of the four captions of mixed pairs.

        Args:
            own: Labels of the pairs, `(B, 2)`.
            partners: Labels of their partners, `(B, 2)`.
            weights: Fractions of the original images, `(B, 2)`.
        """
        left, right = torch.stack([own, partners], dim=-1).unbind(dim=1)
        left_weights, right_weights = torch.stack([weights, 1 - weights], dim=-1).unbind(dim=1)
        return {
            "caption_ids": (self.num_classes * left.unsqueeze(2) + right.unsqueeze(1)).flatten(1),
            "caption_weights": (left_weights.unsqueeze(2) * right_weights.unsqueeze(1)).flatten(1),
        }
