"""Random augmentation of batches of images, with independent parameters for each image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmkit.data.transforms.rand_augment import LARGEST_MAGNITUDE, rand_augment

_LUMA_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue in the gray image for contrast and saturation
_CHUNK_SIZE = 64  # small images fit in the CPU cache, which is twice as fast as chunks of 512


@dataclass(frozen=True)
class ImageAugmentation:
    """Random augmentation of a batch of images, with independent parameters for each image.

    The operations are, in this order,

    1. color jitter: brightness, contrast and saturation,
    2. flip, rotation and shift, in a single bilinear resampling with reflection padding,
    3. RandAugment.

    Operations whose argument is 0 are skipped. Random numbers come from torch's global generator, whose state `Trainer`
    saves in checkpoints.

    Augment the images of a pair before they are joined, as [`PairCollator`] does. Flipping the joined image would
    exchange left and right.

    Args:
        flip: Probability of a horizontal flip.
        color_jitter: Maximum relative change of brightness, contrast and saturation, from 0 to 1. The factors are drawn
            from 1 - color_jitter to 1 + color_jitter.
        rotation: Maximum angle of the rotation in degrees, in both directions, from 0 to 180.
        crop_padding: Maximum shift along each axis in pixels, as in a random crop after padding.
        rand_augment: Number of RandAugment operations per image.
        rand_augment_magnitude: Magnitude of the RandAugment operations, an integer from 0 to 30.

    Raises:
        ValueError: If an argument is out of range. On call, if the images do not have the shape `(N, 3, H, W)`.
        TypeError: If `crop_padding`, `rand_augment` or `rand_augment_magnitude` is not an integer. On call, if the
            images are not uint8.

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
                raise TypeError(f"`{name}` must be an integer, but got {value!r}.")
            _check_range(name, value, limit)

    def __call__(self, images: Tensor) -> Tensor:
        """Augment uint8 images `(N, 3, H, W)`."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"`images` must have the shape (N, 3, H, W), but got {tuple(images.shape)}.")
        if images.dtype != torch.uint8:
            raise TypeError(
                f"`images` must be torch.uint8, but got {images.dtype}. Augment images before normalization."
            )
        images = torch.cat([self._jitter_and_move(part) for part in images.split(_CHUNK_SIZE)])
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
    """Adjust brightness, contrast and saturation, in this order, with separate factors for each image.

    The results equal the torchvision functions of these names, except for intermediate rounding. A factor of 1 does not
    change an image.

    Args:
        pixels: Float images `(N, 3, H, W)` with values from 0 to 255.
        brightness: Factors `(N,)`. A factor of 0 gives a black image.
        contrast: Factors `(N,)`. A factor of 0 gives a uniform gray image.
        saturation: Factors `(N,)`. A factor of 0 gives a grayscale image.

    Returns:
        Images of the same shape and range.

    Example:
        >>> gray = torch.full((2, 3, 4, 4), 100.0)
        >>> one = torch.ones(2)
        >>> adjust_colors(gray, brightness=torch.tensor([0.5, 2.0]), contrast=one, saturation=one)[:, 0, 0, 0]
        tensor([ 50., 200.])
    """
    brightness, contrast, saturation = (factors.view(-1, 1, 1, 1) for factors in (brightness, contrast, saturation))
    pixels = (pixels * brightness).clamp_(0, 255)
    pixels = _grayscale(pixels).mean(dim=(-2, -1), keepdim=True).lerp(pixels, contrast).clamp_(0, 255)
    return _grayscale(pixels).lerp(pixels, saturation).clamp_(0, 255)


def _grayscale(pixels: Tensor) -> Tensor:
    """Convert RGB images to grayscale, `(N, 1, H, W)`."""
    red, green, blue = pixels.split(1, dim=1)
    return (_LUMA_WEIGHTS[0] * red).add_(green, alpha=_LUMA_WEIGHTS[1]).add_(blue, alpha=_LUMA_WEIGHTS[2])


def move_images(pixels: Tensor, *, flipped: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Flip, rotate and shift images, in this order, with separate parameters for each image.

    The operations are combined to a single bilinear resampling with reflection padding.

    Args:
        pixels: Float images `(N, 3, H, W)`.
        flipped: Booleans `(N,)`, `True` for images to flip horizontally.
        angles: Counterclockwise angles of rotation about the center in degrees, `(N,)`.
        shifts: Integer offsets `(N, 2)` of the sampling window in pixels, to the right and downwards.

    Returns:
        Images of the same shape.

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
    # Normalized source coordinates of each output pixel, from -1 to 1 along each axis of the image.
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
        raise ValueError(f"`{name}` must be {limit}, but got {value}.")
