"""Image processors of [`SmolVLM`]: images of any aspect ratio, whole or split into quarters, to padded pixels."""

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

logger = logging.get_logger(__name__)

_KINDS_OF_SIZE = ({"height", "width"}, {"longest_edge"}, {"longest_edge", "shortest_edge"})


class VlmkitSmolVLMImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What the constructor and a call take beyond the keywords of all image processors.

    Attributes:
        do_image_splitting: whether an image becomes five crops, its quarters and the whole, or the whole alone.
        size_divisor: of which the sides of all crops are multiples, in pixels: the side of the model's patches.
    """

    do_image_splitting: bool
    size_divisor: int


class _CropImageProcessor(ShimMixin, BaseImageProcessor):
    """What both backends have in common: which crops an image has, their sizes, and the batch of them."""

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
        """Height and width of each crop that an image becomes, in pixels.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            **images_kwargs: keywords of the call, such as `do_image_splitting` or `size`.

        Raises:
            TypeError: a call has no such keyword.
            ValueError: the image is empty or too small to be split, or an option makes no sense.

        Example:
            >>> processor = VlmkitSmolVLMImageProcessor(size={"longest_edge": 224})
            >>> processor.crop_sizes(300, 400)
            [(176, 224)]
            >>> processor.crop_sizes(300, 400, do_image_splitting=True)
            [(144, 208), (144, 208), (144, 208), (144, 208), (176, 224)]
        """
        validate_typed_dict(self.valid_kwargs, images_kwargs)  # as a call does
        own = {name: getattr(self, name) for name in self.valid_kwargs.__annotations__}
        options = self._standardize_kwargs(**{**own, **images_kwargs})
        size = options["size"] if options["do_resize"] else None
        crops = _split(height, width, options["do_image_splitting"], size, options["size_divisor"])
        return [crop.size for crop in crops]

    def _standardize_kwargs(self, *, size: Any, size_divisor: int, **kwargs: Any) -> dict[str, Any]:
        """Check what the constructor or a call gets, as well."""
        if kwargs.get("do_center_crop") or kwargs.get("pad_size") or kwargs.get("do_pad") is False:
            raise ValueError(
                "crops are not cropped, and padded to the largest; leave out do_center_crop, do_pad and pad_size"
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
        """Images `(3, H, W)` to the batch of their crops."""
        if not images:
            raise ValueError("images is an empty list; give at least one image")
        if do_image_splitting and not self.do_image_splitting:
            logger.warning(
                "images are split for a model that was not trained with split images; "
                "set do_image_splitting=True in the processor that it is trained and saved with"
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
        # A mask is the grid of the patches, too; without one, it is a square.
        if not do_resize or "height" not in size or size.height != size.width:
            data["pixel_values"], data["pixel_attention_mask"] = self._padded(pixels)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["crop_sizes"])

    def _padded(self, crops: list[Any]) -> tuple[Any, Any]:
        """One batch of crops of several sizes, and its mask; the backends' own `pad` copies everything three times."""
        height, width = (max(crop.shape[axis] for crop in crops) for axis in (1, 2))
        pixels, mask = self._zeros((len(crops), crops[0].shape[0], height, width), crops[0])
        for row, crop in enumerate(crops):
            pixels[row, :, : crop.shape[1], : crop.shape[2]] = crop
            mask[row, : crop.shape[1], : crop.shape[2]] = 1
        return pixels, mask


class VlmkitSmolVLMImageProcessor(_CropImageProcessor, TorchvisionBackend):
    """Turns images into crops, and these into `pixel_values (C, 3, H, W)` and `pixel_attention_mask (C, H, W)`.

    The crops of all images follow one another. An image is one crop, or with `do_image_splitting` five: its quarters
    (top left, top right, bottom left, bottom right; of an odd side, the second half is the longer), cut from its own
    pixels, then the whole. Each crop is resized, scaled and normalised by itself, then padded with zeros on the right
    and at the bottom to the largest height and width of the call.

    `pixel_attention_mask` is 1 for the pixels of a crop and 0 for padding. Without it, all crops have the fixed height
    and width of `size`. `crop_sizes` lists the `(height, width)` of the crops of each image; models do not take it.

    Args:
        **kwargs: of all image processors, and
            `size`: `{"longest_edge": L}` (by default 384) keeps the aspect ratio and reduces a crop until its longer
            side is at most L; with `"shortest_edge": S` it is first enlarged until its shorter side is at least S.
            Sides become the nearest multiples of `size_divisor`. `{"height": H, "width": W}` squashes.
            `size_divisor` (16): the side of the model's patches; for `pixel_shuffle`, times `pixel_shuffle_factor`.
            `do_image_splitting` (`False`): the value that is saved says how the model is trained; a call that
            splits against it is warned.
            `resample`: bicubic, with antialias. `image_mean`, `image_std`: 0.5 each.

    Raises:
        ValueError: `size` has other keys, or a side that is no multiple of `size_divisor`; `size_divisor` is below 1;
            an image is empty, or is to be split and has a side of one pixel; there is no image; or a call crops or
            does not pad.

    References:
        Laurençon et al., "What matters when building vision-language models?", arXiv:2405.02246: it keeps the aspect
        ratio of images, and splits them into the same five crops.

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
    """[`VlmkitSmolVLMImageProcessor`] by PIL and NumPy, without torchvision; pixels differ by a level of 255 or two."""

    def rescale_and_normalize(
        self,
        images: np.ndarray,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
    ) -> np.ndarray:
        """Do the chosen ones of the two steps, which torchvision's backend has in one."""
        if do_rescale:
            images = self.rescale(images, rescale_factor)
        return self.normalize(images, image_mean, image_std) if do_normalize else images

    @staticmethod
    def _zeros(shape: tuple[int, int, int, int], like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(shape, like.dtype), np.zeros((shape[0], *shape[2:]), np.int64)


class _Crop(NamedTuple):
    """A part of an image and the size `(height, width)` that it is resized to."""

    rows: slice
    columns: slice
    size: tuple[int, int]


def _split(height: int, width: int, do_image_splitting: bool, size: SizeDict | None, divisor: int) -> list[_Crop]:
    """The crops of an image, in order; without a `size` they are not resized."""
    if min(height, width) < 1:
        raise ValueError(f"an image of {height}x{width} pixels (height x width) is empty; drop it")
    parts = [(slice(0, height), slice(0, width))]
    if do_image_splitting:
        if min(height, width) < 2:
            raise ValueError(
                f"an image of {height}x{width} pixels (height x width) has no quarters; give one of at least 2x2, or "
                "do_image_splitting=False"
            )
        halves = [(slice(0, side // 2), slice(side // 2, side)) for side in (height, width)]
        parts = [(rows, columns) for rows in halves[0] for columns in halves[1]] + parts
    crops = []
    for rows, columns in parts:
        own_size = rows.stop - rows.start, columns.stop - columns.start
        crops.append(_Crop(rows, columns, _target_size(*own_size, size, divisor) if size else own_size))
    return crops


def _target_size(height: int, width: int, size: SizeDict, divisor: int) -> tuple[int, int]:
    """The height and width that those of a crop become."""
    if "height" in size:
        return size.height, size.width
    enlarge = max(1.0, size.get("shortest_edge", 0) / min(height, width))
    scale = min(enlarge, size.longest_edge / max(height, width))
    new_height, new_width = (max(1, int(side * scale / divisor + 0.5)) * divisor for side in (height, width))
    return new_height, new_width


def _check_size(size: dict[str, int], divisor: int) -> None:
    """Refuse a `size` of another kind, or one whose sides no crops can have."""
    if divisor < 1:
        raise ValueError(f"size_divisor is {divisor}; give the side of the model's patches, in pixels")
    if set(size) not in _KINDS_OF_SIZE:
        raise ValueError(f"size is {size}; give longest_edge, with or without shortest_edge, or height and width")
    for name, side in size.items():
        if side < 1 or side % divisor:
            below = max(side, 0) // divisor * divisor
            nearest = " or ".join(str(multiple) for multiple in (below, below + divisor) if multiple)
            raise ValueError(f"{name} of size is {side}, no multiple of size_divisor {divisor}; give {nearest}")
