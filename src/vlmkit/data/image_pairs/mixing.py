"""Mixtures of images within a batch of pairs: mixup and CutMix."""

from typing import NamedTuple

import torch
from torch import Tensor


class MixedPairs(NamedTuple):
    """Pairs of mixed images, and what they are mixed of.

    `images (B, 2, 3, H, W)` in uint8; `weights (B, 2)`, the share of the own image in the left and in the right one;
    `partners (B,)`, the pair whose left and right image have the rest.
    """

    images: Tensor
    weights: Tensor
    partners: Tensor


def mix_up(images: Tensor, alpha: float) -> MixedPairs:
    """Blend every image with that of another pair on the same side.

    Left and right image draw a weight of their own from Beta(alpha, alpha), and share the partner. A batch of one pair
    stays as it is.

    Args:
        images: `(B, 2, 3, H, W)` in uint8.
        alpha: near 0, an image is mostly its own or mostly its partner's; at 1, all weights are as likely; large, they
            are near one half.

    Raises:
        ValueError: `alpha` is not positive, or the images have another shape.

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv:1710.09412), section 2.

    Example:
        >>> images = torch.tensor([0, 200], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 2, 3, 4, 4)
        >>> mixed = mix_up(images, alpha=1.0)
        >>> mixed.partners, torch.equal(mixed.images[0, :, 0, 0, 0], ((1 - mixed.weights[0]) * 200).round().byte())
        (tensor([1, 0]), True)
    """
    weights = _draw_weights(images, alpha)
    partners = _draw_partners(images)
    own = images.float()
    mixed = own[partners].lerp(own, weights[:, :, None, None, None])
    return MixedPairs(mixed.round_().to(torch.uint8), weights, partners)


def cut_mix(images: Tensor, alpha: float) -> MixedPairs:
    """Paste into every image a box of that of another pair, on the same side and at the same place.

    Left and right image draw a box of their own and share the partner. A box has the image's proportions and a centre
    anywhere in it; its share of the area is drawn from Beta(alpha, alpha) before what reaches beyond the border is cut
    off. The weights are what remains of the own image, exactly. A batch of one pair stays as it is.

    Args:
        images: `(B, 2, 3, H, W)` in uint8.
        alpha: near 0, a box is mostly tiny or the whole image; at 1, all areas are as likely.

    Raises:
        ValueError: `alpha` is not positive, or the images have another shape.

    References:
        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
        (arXiv:1905.04899), section 3.

    Example:
        >>> images = torch.tensor([0, 1], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 2, 3, 8, 8)
        >>> mixed = cut_mix(images, alpha=1.0)
        >>> torch.equal(mixed.images[1].float().mean(dim=(1, 2, 3)), mixed.weights[1])
        True
    """
    side = (1 - _draw_weights(images, alpha)).sqrt()
    partners = _draw_partners(images)
    height, width = images.shape[-2:]
    in_rows, in_columns = _draw_interval(side, height), _draw_interval(side, width)
    in_box = in_rows.unsqueeze(-1) & in_columns.unsqueeze(-2)
    weights = 1 - in_box.float().mean(dim=(-2, -1))
    return MixedPairs(torch.where(in_box.unsqueeze(2), images[partners], images), weights, partners)


def _draw_weights(images: Tensor, alpha: float) -> Tensor:
    """A weight for every image, `(B, 2)`."""
    if images.ndim != 5 or images.shape[1] != 2:
        raise ValueError(f"the images have the shape {tuple(images.shape)}; it must be (B, 2, 3, H, W)")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; it must be positive")
    concentration = torch.full(images.shape[:2], float(alpha), device=images.device)
    return torch.distributions.Beta(concentration, concentration).sample()


def _draw_partners(images: Tensor) -> Tensor:
    """Another pair for every pair, each once, `(B,)`: the next one of a random circle."""
    circle = torch.randperm(len(images), device=images.device)
    partners = torch.empty_like(circle)
    partners[circle] = circle.roll(1)
    return partners


def _draw_interval(share: Tensor, length: int) -> Tensor:
    """Which of `length` pixels lie in an interval of a share of them about a random centre, `(B, 2, length)`."""
    size = (share * length).long()
    start = torch.randint(length, share.shape, device=share.device) - size // 2
    pixels = torch.arange(length, device=share.device)
    return (pixels >= start.unsqueeze(-1)) & (pixels < (start + size).unsqueeze(-1))
