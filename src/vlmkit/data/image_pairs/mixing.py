"""Mixing augmentations of image pairs: mixup and CutMix."""

from typing import NamedTuple

import torch
from torch import Tensor


class MixedPairs(NamedTuple):
    """Mixed image pairs and the parameters of the mixture.

    Args:
        images: Mixed images `(B, 2, 3, H, W)` in uint8.
        weights: Fraction of the original image in the left and right mixed image, `(B, 2)`.
        partners: Index of the other pair that each pair is mixed with, `(B,)`.

    Example:
        >>> images, weights, partners = mix_up(torch.zeros(2, 2, 3, 4, 4, dtype=torch.uint8), alpha=1.0)
        >>> images.shape, weights.shape, partners
        (torch.Size([2, 2, 3, 4, 4]), torch.Size([2, 2]), tensor([1, 0]))
    """

    images: Tensor
    weights: Tensor
    partners: Tensor


def mix_up(images: Tensor, alpha: float) -> MixedPairs:
    """Apply mixup to image pairs: blend each image with the image of another pair on the same side.

    For an image x and the corresponding image x' of the partner, the mixed image is

        w x + (1 - w) x',    w ~ Beta(alpha, alpha)

    The left and the right image have independent weights w and the same partner. A batch with one pair is not changed.

    Args:
        images: Left and right images, `(B, 2, 3, H, W)` in uint8.
        alpha: Parameter of the Beta distribution, greater than 0. Weights are close to 0 or 1 for small values,
            uniformly distributed for 1, and close to 0.5 for large values.

    Returns:
        The mixed images, weights and partners.

    Raises:
        ValueError: If `alpha` is not positive, or the images have another shape.

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
    """Apply CutMix to image pairs: replace a box of each image by the same box of another pair's image.

    The box has the aspect ratio of the image, a uniformly distributed center, and the size

        height = H sqrt(1 - w),    width = W sqrt(1 - w),    w ~ Beta(alpha, alpha)

    Parts of the box outside the image are cut off. The returned weights are the exact fractions of remaining pixels,
    which can be greater than w. The left and the right image have independent boxes and the same partner. A batch with
    one pair is not changed.

    Args:
        images: Left and right images, `(B, 2, 3, H, W)` in uint8.
        alpha: Parameter of the Beta distribution, greater than 0. For small values, most boxes are very small or cover
            the whole image. For 1, w is uniformly distributed.

    Returns:
        The mixed images, weights and partners.

    Raises:
        ValueError: If `alpha` is not positive, or the images have another shape.

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
    """Draw a weight for each image, `(B, 2)`."""
    if images.ndim != 5 or images.shape[1] != 2:
        raise ValueError(f"`images` must have the shape (B, 2, 3, H, W), but got {tuple(images.shape)}.")
    if not alpha > 0:
        raise ValueError(f"`alpha` must be positive, but got {alpha}.")
    concentration = torch.full(images.shape[:2], float(alpha), device=images.device)
    return torch.distributions.Beta(concentration, concentration).sample()


def _draw_partners(images: Tensor) -> Tensor:
    """Draw a random partner for each pair, as a permutation `(B,)` without fixed points (unless B is 1)."""
    cycle = torch.randperm(len(images), device=images.device)
    partners = torch.empty_like(cycle)
    partners[cycle] = cycle.roll(1)
    return partners


def _draw_interval(share: Tensor, length: int) -> Tensor:
    """Draw a random interval for each image, as a mask `(B, 2, length)` of the pixels on one axis.

    Args:
        share: Length of the intervals as a fraction of `length`, `(B, 2)`.
        length: Number of pixels.
    """
    size = (share * length).long()
    start = torch.randint(length, share.shape, device=share.device) - size // 2
    pixels = torch.arange(length, device=share.device)
    return (pixels >= start.unsqueeze(-1)) & (pixels < (start + size).unsqueeze(-1))
