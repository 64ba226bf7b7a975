"""Image processors of [`SmolVLM`], which keep the aspect ratio and can split images into quarters."""

from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from torch import Tensor
from transformers import BaseImageProcessor, BatchFeature
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from vlmkit.base.hub import ShimMixin
from vlmkit.validation import check_at_least

logger = logging.get_logger(__name__)

_KEYS_OF_SIZE = ({"height", "width"}, {"longest_edge"}, {"longest_edge", "shortest_edge"})


class VlmkitSmolVLMImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Keywords in addition to those of all image processors.

    Attributes:
        do_image_splitting: Whether to split an image into five crops, its quarters and the whole image.
        size_divisor: Divisor of the sides of all crops, in pixels: the patch size of the model.
    """

    do_image_splitting: bool
    size_divisor: int


class _CropImageProcessor(ShimMixin, BaseImageProcessor):
    """Base class of both backends, which splits images, computes the sizes of crops and pads them to a batch."""

    valid_kwargs = VlmkitSmolVLMImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_attention_mask", "num_crops"]  # noqa: RUF012
    size = {"longest_edge": 384}  # noqa: RUF012
    size_divisor = 16
    resample = PILImageResampling.BICUBIC
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    do_image_splitting = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = True

    def crop_sizes(self, height: int, width: int, **images_kwargs: Any) -> list[tuple[int, int]]:
        """Compute the height and width of each crop of an image, in pixels.

        Args:
            height: Height of the image, in pixels.
            width: Width of the image, in pixels.
            **images_kwargs: Keywords of the call, such as `do_image_splitting` or `size`.

        Raises:
            TypeError: If a keyword is unknown.
            ValueError: If the image is empty or too small to be split, or an option is invalid.

        Example:
            >>> processor = VlmkitSmolVLMImageProcessor(size={"longest_edge": 224})
            >>> processor.crop_sizes(300, 400)
            [(176, 224)]
            >>> processor.crop_sizes(300, 400, do_image_splitting=True)
            [(144, 208), (144, 208), (144, 208), (144, 208), (176, 224)]
        """
        validate_typed_dict(self.valid_kwargs, images_kwargs)
        own = {name: getattr(self, name) for name in self.valid_kwargs.__annotations__}
        options = self._standardize_kwargs(**{**own, **images_kwargs})
        size = options["size"] if options["do_resize"] else None
        crops = _split(height, width, options["do_image_splitting"], size, options["size_divisor"])
        return [crop.size for crop in crops]

    def _standardize_kwargs(self, *, size: Any, size_divisor: int, **kwargs: Any) -> dict[str, Any]:
        """Standardize keywords as transformers does, and check those of the crops."""
        if kwargs.get("do_center_crop") or kwargs.get("pad_size") or kwargs.get("do_pad") is False:
            raise ValueError(
                "`do_center_crop`, `do_pad=False` and `pad_size` are not supported, because crops are padded to the "
                "largest one. Omit them."
            )
        if isinstance(size, int | list | tuple):
            size = get_size_dict(size)  # an integer is the side of a square
        _check_size(dict(size or {}), size_divisor)
        return {**super()._standardize_kwargs(size=size, **kwargs), "size_divisor": size_divisor}

    def _preprocess(
        self,
        images: list[Any],
        do_image_splitting: bool,
        do_resize: bool,
        size: SizeDict,
        size_divisor: int,
        resample: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        return_tensors: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        """Convert images `(3, H, W)` to a batch of their crops."""
        if not images:
            raise ValueError("`images` must not be an empty list. Pass at least one image.")
        if do_image_splitting and not self.do_image_splitting:
            logger.warning(
                "The images are split, but the model was not trained with split images. Set `do_image_splitting=True` "
                "in the processor that is used for training and saved with the model."
            )
        pixels, sizes = [], []
        for image in images:
            height, width = image.shape[1:]
            crops = _split(height, width, do_image_splitting, size if do_resize else None, size_divisor)
            sizes.append([crop.size for crop in crops])
            for crop in crops:
                cut = image[:, crop.rows, crop.columns]
                if do_resize:
                    cut = self.resize(cut, SizeDict(height=crop.size[0], width=crop.size[1]), resample)
                pixels.append(
                    self.rescale_and_normalize(cut, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
                )
        num_crops = np.array([len(crops) for crops in sizes])
        data: dict[str, Any] = {"pixel_values": pixels, "num_crops": num_crops, "crop_sizes": sizes}
        # The mask also defines the grid of patches. Without a mask, the grid must be a square.
        if not do_resize or "height" not in size or size.height != size.width:
            data["pixel_values"], data["pixel_attention_mask"] = self._padded(pixels)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["crop_sizes"])

    def _padded(self, crops: list[Any]) -> tuple[Any, Any]:
        """Pad crops of different sizes to a batch, and return it with its mask. `pad` of the backends copies thrice."""
        height, width = (max(crop.shape[axis] for crop in crops) for axis in (1, 2))
        pixels, mask = self._zeros((len(crops), crops[0].shape[0], height, width), crops[0])
        for row, crop in enumerate(crops):
            pixels[row, :, : crop.shape[1], : crop.shape[2]] = crop
            mask[row, : crop.shape[1], : crop.shape[2]] = 1
        return pixels, mask


class VlmkitSmolVLMImageProcessor(_CropImageProcessor, TorchvisionBackend):
    """Resize images with their aspect ratio, optionally split them, and pad all crops to a batch.

    Returns `pixel_values (C, 3, H, W)`, the crops of all images in order, `pixel_attention_mask (C, H, W)`, which is 1
    for pixels of a crop and 0 for padding, `num_crops (I,)`, and `crop_sizes`, the `(height, width)` of the crops of
    each image (not an input of the model). The mask is omitted if `size` is a fixed square.

    An image is a single crop. With `do_image_splitting`, it has five crops: its quarters (top left, top right, bottom
    left, bottom right) at the original resolution, followed by the whole image. Each crop is resized, rescaled and
    normalized on its own, then padded with zeros on the right and at the bottom to the largest height and width.

    Args:
        size: `{"longest_edge": L}` reduces a crop until its longer side is at most L pixels, with its aspect ratio.
            Together with `"shortest_edge": S`, a crop is first enlarged until its shorter side is at least S. Sides
            are rounded to multiples of `size_divisor`. `{"height": H, "width": W}` ignores the aspect ratio. Defaults
            to `{"longest_edge": 384}`.
        size_divisor: Side of an image token in pixels: the patch size of the model, multiplied by
            `pixel_shuffle_factor` for a `pixel_shuffle` connector. Defaults to 16.
        do_image_splitting: Whether to split images. Save the value that the model is trained with: a call that
            splits images although the saved value is `False` logs a warning. Defaults to `False`.
        **kwargs: Keywords of all image processors. `resample` defaults to bicubic, `image_mean` and `image_std` to 0.5.

    Raises:
        ValueError: If `size` has other keys or a side that is not a multiple of `size_divisor`, `size_divisor` is less
            than 1, an image is empty or too small to be split, no image is given, or cropping or no padding is
            requested.

    References:
        Laurençon et al., "What matters when building vision-language models?" (arXiv:2405.02246), for the aspect ratio
        and the five crops.

    Example:
        >>> from PIL import Image
        >>> processor = VlmkitSmolVLMImageProcessor(size={"longest_edge": 64}, do_image_splitting=True)
        >>> batch = processor([Image.new("RGB", (128, 64)), Image.new("RGB", (40, 80))], return_tensors="pt")
        >>> batch["pixel_values"].shape
        torch.Size([10, 3, 64, 64])
        >>> batch["crop_sizes"][1]
        [(48, 16), (48, 16), (48, 16), (48, 16), (64, 32)]
    """

    @staticmethod
    def _zeros(shape: tuple[int, int, int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_zeros(shape), like.new_zeros((shape[0], *shape[2:]), dtype=torch.int64)


class VlmkitSmolVLMImageProcessorPil(_CropImageProcessor, PilBackend):
    """[`VlmkitSmolVLMImageProcessor`] with PIL and NumPy instead of torchvision. Pixels differ by up to 2/255."""

    def rescale_and_normalize(
        self,
        images: np.ndarray,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
    ) -> np.ndarray:
        """Rescale and normalize an image, as the torchvision backend does in one step."""
        if do_rescale:
            images = self.rescale(images, rescale_factor)
        return self.normalize(images, image_mean, image_std) if do_normalize else images

    @staticmethod
    def _zeros(shape: tuple[int, int, int, int], like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(shape, like.dtype), np.zeros((shape[0], *shape[2:]), np.int64)


class _Crop(NamedTuple):
    """Part of an image, and the `(height, width)` that it is resized to."""

    rows: slice
    columns: slice
    size: tuple[int, int]


def _split(height: int, width: int, do_image_splitting: bool, size: SizeDict | None, divisor: int) -> list[_Crop]:
    """Return the crops of an image in order. Without a `size`, they are not resized."""
    if min(height, width) < 1:
        raise ValueError(
            f"Images must have at least 1 x 1 pixels, but got {height} x {width} (height x width). Remove the image."
        )
    parts = [(slice(0, height), slice(0, width))]
    if do_image_splitting:
        if min(height, width) < 2:
            raise ValueError(
                f"Images must have at least 2 x 2 pixels to be split, but got {height} x {width} (height x width). Set "
                "`do_image_splitting=False`, or remove the image."
            )
        halves = [(slice(0, side // 2), slice(side // 2, side)) for side in (height, width)]
        parts = [(rows, columns) for rows in halves[0] for columns in halves[1]] + parts
    crops = []
    for rows, columns in parts:
        own_size = rows.stop - rows.start, columns.stop - columns.start
        crops.append(_Crop(rows, columns, _target_size(*own_size, size, divisor) if size else own_size))
    return crops


def _target_size(height: int, width: int, size: SizeDict, divisor: int) -> tuple[int, int]:
    """Return height and width of a crop after resizing."""
    if "height" in size:
        return size.height, size.width
    enlarge = max(1.0, size.get("shortest_edge", 0) / min(height, width))
    scale = min(enlarge, size.longest_edge / max(height, width))
    new_height, new_width = (max(1, int(side * scale / divisor + 0.5)) * divisor for side in (height, width))
    return new_height, new_width


def _check_size(size: dict[str, int], divisor: int) -> None:
    """Check the keys of `size`, and that its sides are multiples of the divisor."""
    check_at_least("size_divisor", divisor)
    if set(size) not in _KEYS_OF_SIZE:
        raise ValueError(
            "`size` must have the keys longest_edge, longest_edge and shortest_edge, or height and width, but got "
            f"{size}."
        )
    for name, side in size.items():
        if side < 1 or side % divisor:
            below = max(side, 0) // divisor * divisor
            nearest = " or ".join(str(multiple) for multiple in (below, below + divisor) if multiple)
            raise ValueError(
                f"`{name}` of `size` must be a multiple of `size_divisor` {divisor}, but got {side}. Use {nearest}."
            )
