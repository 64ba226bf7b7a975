"""Random changes to a batch of images, other ones for every image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmkit.data.transforms.rand_augment import LARGEST_MAGNITUDE, rand_augment

_GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue in the grey that contrast and saturation refer to
_IMAGES_AT_A_TIME = 64  # so that small images stay in the cache, which is twice as fast as 512 at a time


@dataclass(frozen=True)
class ImageAugmentation:
    """Flips, colours, rotates and shifts every image of a batch by amounts of its own.

    In this order: brightness, contrast, saturation; then flip, rotation and shift in one bilinear sampling, which
    mirrors the image at its border; then rounding; then RandAugment. What is set to 0 is left out and draws nothing.

    All draws come from torch's random numbers, which Trainer seeds and restores. Images are augmented before two of
    them are stacked: a flip of the stacked pair would exchange left and right and falsify the caption.

    Args:
        flip: probability of a horizontal flip.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor from 1 - this to 1 + this.
        rotation: largest angle in degrees, to either side.
        crop_padding: largest shift along either axis in whole pixels, as by padding and a random crop.
        rand_augment: number of operations of RandAugment per image; see [`rand_augment`].
        rand_augment_magnitude: of these operations, from 0 to 30.

    Raises:
        ValueError: a value is outside its range. On call: the images are not `(N, 3, H, W)`.
        TypeError: `crop_padding`, `rand_augment` or its magnitude is not an integer. On call: the images are not
            uint8.

    References:
        Cubuk et al., "RandAugment" (arXiv:1909.13719).

    Example:
        >>> images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4).repeat(2, 1, 1, 1)
        >>> first, second = ImageAugmentation()(images)
        >>> first.shape, first.dtype, torch.equal(first, second)
        (torch.Size([3, 4, 4]), torch.uint8, False)
    """

    flip: float = 0.5
    color_jitter: float = 0.2
    rotation: float = 10.0
    crop_padding: int = 0
    rand_augment: int = 0
    rand_augment_magnitude: int = 9

    def __post_init__(self) -> None:
        for name, largest in (("flip", 1), ("color_jitter", 1), ("rotation", 180)):
            _check_range(name, getattr(self, name), largest)
        for name, limit in (
            ("crop_padding", math.inf),
            ("rand_augment", math.inf),
            ("rand_augment_magnitude", LARGEST_MAGNITUDE),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}; it must be an integer")
            _check_range(name, value, limit)

    def __call__(self, images: Tensor) -> Tensor:
        """Augment `(N, 3, H, W)` uint8 images."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the images have the shape {tuple(images.shape)}; it must be (N, 3, H, W)")
        if images.dtype != torch.uint8:
            raise TypeError(f"the images are {images.dtype}; augment them as torch.uint8, before they are normalized")
        images = torch.cat([self._jitter_and_move(part) for part in images.split(_IMAGES_AT_A_TIME)])
        for _ in range(self.rand_augment):
            images = rand_augment(images, self.rand_augment_magnitude)
        return images

    def _jitter_and_move(self, images: Tensor) -> Tensor:
        moves = self.flip > 0 or self.rotation > 0 or self.crop_padding > 0
        if not moves and self.color_jitter == 0:
            return images
        pixels = images.float()
        if self.color_jitter > 0:
            pixels = self._jitter(pixels)
        if moves:
            pixels = self._move(pixels)
        return pixels.round_().to(torch.uint8)

    def _jitter(self, pixels: Tensor) -> Tensor:
        factors = torch.empty(3, len(pixels), device=pixels.device)
        factors.uniform_(1 - self.color_jitter, 1 + self.color_jitter)
        brightness, contrast, saturation = factors
        return adjust_colors(pixels, brightness=brightness, contrast=contrast, saturation=saturation)

    def _move(self, pixels: Tensor) -> Tensor:
        num_images, device = len(pixels), pixels.device
        flipped = torch.rand(num_images, device=device) < self.flip
        angles = torch.empty(num_images, device=device).uniform_(-self.rotation, self.rotation)
        shifts = torch.randint(-self.crop_padding, self.crop_padding + 1, (num_images, 2), device=device)
        return move_images(pixels, flipped=flipped, angles=angles, shifts=shifts)


def adjust_colors(pixels: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation, each image by factors of its own.

    As torchvision's functions of these names, but without rounding in between.

    Args:
        pixels: `(N, 3, H, W)` floats from 0 to 255.
        brightness: `(N,)`; at 0, the image is black.
        contrast: `(N,)`; at 0, it has its mean grey everywhere.
        saturation: `(N,)`; at 0, it has no colours.

    Returns:
        Pixels of the same shape and range.

    Example:
        >>> grey = torch.full((2, 3, 4, 4), 100.0)
        >>> one = torch.ones(2)
        >>> adjust_colors(grey, brightness=torch.tensor([0.5, 2.0]), contrast=one, saturation=one)[:, 0, 0, 0]
        tensor([ 50., 200.])
    """
    brightness, contrast, saturation = (factors.view(-1, 1, 1, 1) for factors in (brightness, contrast, saturation))
    pixels = (pixels * brightness).clamp_(0, 255)
    pixels = _grey(pixels).mean(dim=(-2, -1), keepdim=True).lerp(pixels, contrast).clamp_(0, 255)
    return _grey(pixels).lerp(pixels, saturation).clamp_(0, 255)


def _grey(pixels: Tensor) -> Tensor:
    """`(N, 1, H, W)`."""
    red, green, blue = pixels.split(1, dim=1)
    return (_GREY[0] * red).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def move_images(pixels: Tensor, *, flipped: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Flip, then rotate about the centre, then shift, each image by amounts of its own and all in one sampling.

    Beyond its border, an image continues as its mirror image.

    Args:
        pixels: `(N, 3, H, W)` floats.
        flipped: `(N,)` booleans, whether left becomes right.
        angles: `(N,)` degrees, counter-clockwise.
        shifts: `(N, 2)` offsets of the sampling window in pixels, to the right and downwards.

    Returns:
        Pixels of the same shape.

    Example:
        >>> row = torch.tensor([1.0, 2.0, 3.0]).expand(1, 3, 3, 3)
        >>> shifts = torch.tensor([[1, 0]])
        >>> moved = move_images(row, flipped=torch.tensor([True]), angles=torch.zeros(1), shifts=shifts)
        >>> moved.round()[0, 0, 0]
        tensor([2., 1., 1.])
    """
    height, width = pixels.shape[-2:]
    angles = angles.deg2rad().view(-1, 1, 1)
    cos, sin = angles.cos(), angles.sin()
    # Where each pixel of the result comes from; along both axes, the image reaches from -1 to 1.
    x = ((torch.arange(width, device=pixels.device) + shifts[:, :1]) * 2 + 1).unsqueeze(1) / width - 1
    y = ((torch.arange(height, device=pixels.device) + shifts[:, 1:]) * 2 + 1).unsqueeze(2) / height - 1
    direction = torch.where(flipped, -1.0, 1.0).view(-1, 1, 1)
    source_x = direction * cos * x - direction * sin * (height / width) * y
    source_y = sin * (width / height) * x + cos * y
    grid = torch.stack([source_x, source_y], dim=-1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _check_range(name: str, value: float, largest: float) -> None:
    if not 0 <= value <= largest:
        limit = "at least 0" if largest == math.inf else f"from 0 to {largest}"
        raise ValueError(f"{name} is {value}; it must be {limit}")
