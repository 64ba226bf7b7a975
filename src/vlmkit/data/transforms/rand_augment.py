"""RandAugment of batches of images, with an independent operation for each image."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

LARGEST_MAGNITUDE = 30


def _shear(images: Tensor, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Shear images about the upper left corner.

    Args:
        images: Images `(N, 3, H, W)`.
        x: Slope along the horizontal axis.
        y: Slope along the vertical axis.
    """
    slopes = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return F.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=slopes, center=[0, 0])


def _translate(images: Tensor, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Translate images by a whole number of pixels.

    Args:
        images: Images `(N, 3, H, W)`.
        x: Horizontal offset as a fraction of the width.
        y: Vertical offset as a fraction of the height.
    """
    height, width = images.shape[-2:]
    return F.affine(images, angle=0.0, translate=[int(x * width), int(y * height)], scale=1.0, shear=[0.0, 0.0])


# Operations by name, with a strength from -1 to 1. The last four operations ignore its sign.
_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda images, strength: images,
    "shear_x": lambda images, strength: _shear(images, x=0.3 * strength),
    "shear_y": lambda images, strength: _shear(images, y=0.3 * strength),
    "translate_x": lambda images, strength: _translate(images, x=150 / 331 * strength),
    "translate_y": lambda images, strength: _translate(images, y=150 / 331 * strength),
    "rotate": lambda images, strength: F.rotate(images, 30 * strength),
    "brightness": lambda images, strength: F.adjust_brightness(images, 1 + 0.9 * strength),
    "color": lambda images, strength: F.adjust_saturation(images, 1 + 0.9 * strength),
    "contrast": lambda images, strength: F.adjust_contrast(images, 1 + 0.9 * strength),
    "sharpness": lambda images, strength: F.adjust_sharpness(images, 1 + 0.9 * strength),
    "posterize": lambda images, strength: F.posterize(images, 8 - round(4 * abs(strength))),
    "solarize": lambda images, strength: F.solarize(images, 255 * (1 - abs(strength))),
    "auto_contrast": lambda images, strength: F.autocontrast(images),
    "equalize": lambda images, strength: F.equalize(images),
}


def rand_augment(images: Tensor, magnitude: int) -> Tensor:
    """Apply one random RandAugment operation to each image.

    Operations and magnitudes are the defaults of torchvision's `RandAugment`: identity, shear, translation and rotation
    (nearest neighbor, filled with black), brightness, saturation, contrast, sharpness, posterize, solarize, auto
    contrast and equalize. The sign of the magnitude is drawn for each image. Images with the same operation and sign
    are processed as one batch. Random numbers come from torch's global generator.

    Args:
        images: Images `(N, 3, H, W)` in uint8.
        magnitude: Magnitude of all operations, from 0 to 30.

    Returns:
        Images of the same shape and dtype.

    References:
        Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space"
        (arXiv:1909.13719), section 3 and figure 2.

    Example:
        >>> images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4).repeat(50, 1, 1, 1)
        >>> len(rand_augment(images, magnitude=9).unique(dim=0)) > 5
        True
    """
    strength = magnitude / LARGEST_MAGNITUDE
    drawn = torch.randint(len(_OPERATIONS), (len(images),), device=images.device)
    negative = torch.rand(len(images), device=images.device) < 0.5
    result = images.clone()
    for number, operation in enumerate(_OPERATIONS.values()):
        for sign, has_sign in ((1, ~negative), (-1, negative)):
            rows = ((drawn == number) & has_sign).nonzero().flatten()
            if len(rows):
                result[rows] = operation(images[rows], sign * strength)
    return result
