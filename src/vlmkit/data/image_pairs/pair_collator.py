"""From pairs of images to the batches that paired models take."""

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
    """Makes a batch of pairs of images, for `Trainer(data_collator=...)`.

    Its items are those of [`ImagePairs`]. Each image is augmented by itself, maybe mixed with that of another pair, and
    then the processor stacks left and right. A caption is numbered `num_classes` * left label + right label.

    The batch holds `pixel_values (B, 3, S, 2S)` as the processor returns them, and `caption_ids (B,)` in int64. A pair
    of mixed images has four captions, as left and right have two classes each: `caption_ids (B, 4)` and
    `caption_weights (B, 4)`, the product of the shares of the classes in their images, which sums to 1. Where the
    partner has the same class, a caption occurs more than once and its weights add up.

    Trainer evaluates with the same collator: give it another without augmentation and mixture to evaluate.

    Args:
        processor: called with `images (B, 2, 3, H, W)` in uint8 and `return_tensors="pt"`.
        num_classes: number of classes, as `ImagePairs.num_classes`.
        augmentation: takes `(N, 3, H, W)` uint8 images, such as [`ImageAugmentation`]; none by default.
        mix: "mix_up" blends images, "cut_mix" pastes boxes.
        mix_alpha: of the Beta distribution of the shares.

    Raises:
        ValueError: `mix` is unknown, or `mix_alpha` or `num_classes` is not positive. On call: an item lacks `images`
            or `labels`, or a label is outside the classes.

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
            raise ValueError(f"mix_alpha is {self.mix_alpha}; it must be positive")

    def __call__(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Collate pairs into a batch."""
        images, labels = (torch.stack(get_required_column(items, name)) for name in ("images", "labels"))
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"the labels reach from {labels.min()} to {labels.max()}, and num_classes is {self.num_classes}; give "
                "the collator the num_classes of its pairs"
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
        """All captions of a left and a right class; labels and weights are `(B, 2)`."""
        left, right = torch.stack([own, partners], dim=-1).unbind(dim=1)
        left_weights, right_weights = torch.stack([weights, 1 - weights], dim=-1).unbind(dim=1)
        return {
            "caption_ids": (self.num_classes * left.unsqueeze(2) + right.unsqueeze(1)).flatten(1),
            "caption_weights": (left_weights.unsqueeze(2) * right_weights.unsqueeze(1)).flatten(1),
        }
