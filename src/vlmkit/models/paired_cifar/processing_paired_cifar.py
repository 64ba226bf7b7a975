"""Processor of [`PairedCifarAligner`]: pairs of images to pixels side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import SizeDict, get_image_size
from transformers.utils import logging

from vlmkit.base.processing import VlmkitProcessor

logger = logging.get_logger(__name__)

_CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
_CIFAR100_STD = (0.2673, 0.2564, 0.2762)


class PairedCifarAlignerProcessor(VlmkitProcessor):
    """Turns pairs of images into `pixel_values (B, 3, H, 2H)`, the left image on the left.

    Each image is resized to the processor's square size (other sizes are reported once), scaled and normalised, before
    the two are put side by side.

    Args:
        image_processor: of one image; it resizes to a square, and neither crops nor pads.

    Raises:
        ValueError: the image processor's output is not a square of a fixed size, or it crops or pads.

    Example:
        >>> processor = PairedCifarAlignerProcessor.for_cifar100()
        >>> pairs = torch.zeros(5, 2, 3, 32, 32, dtype=torch.uint8)
        >>> processor(images=pairs, return_tensors="pt")["pixel_values"].shape
        torch.Size([5, 3, 32, 64])
    """

    def __init__(self, image_processor: BaseImageProcessor):
        size = dict(image_processor.size or {})
        if size.get("height") is None or size.get("height") != size.get("width"):
            raise ValueError(f"image_processor.size is {size}; a pair needs two squares: give equal height and width")
        for step in ("do_center_crop", "do_pad"):
            if getattr(image_processor, step, None):
                raise ValueError(f"image_processor.{step} is set, but images are resized whole; set it to False")
        super().__init__(image_processor)

    @classmethod
    def for_cifar100(cls, image_size: int = 32) -> "PairedCifarAlignerProcessor":
        """The processor for CIFAR-100, with the mean and deviation of its training images.

        Args:
            image_size: side of each image, in pixels. CNNs made for larger images see more when 32 becomes 64.
        """
        size = {"height": image_size, "width": image_size}
        return cls(ViTImageProcessor(size=size, image_mean=list(_CIFAR100_MEAN), image_std=list(_CIFAR100_STD)))

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> tuple:
        """Check that images come in pairs, and convert those of other modes to RGB.

        Args:
            images: `[[left, right], ...]` (images, arrays or files), or one pair `[left, right]`, or a tensor or
                array `(B, 2, 3, H, W)`.
            text: refused; the captions are the model's own.
            **kwargs: passed on.

        Returns:
            The images of all pairs, flat, and `None` for all else.
        """
        if text is not None:
            raise ValueError("this processor takes images only; the captions are in the model's caption bank")
        return super().prepare_inputs_layout(images=_flat_pairs(images), **kwargs)

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[dict[str, Any], list]:
        self._report_resizing(images)
        if isinstance(images, Tensor):
            pixels = self._process_tensor(images, **kwargs)
        else:
            outputs, _ = super()._process_images(images, **kwargs)
            pixels = torch.stack([torch.as_tensor(image) for image in outputs["pixel_values"]])
        return {"pixel_values": torch.cat([pixels[0::2], pixels[1::2]], dim=-1)}, []

    def _process_tensor(self, images: Tensor, **kwargs: Any) -> Tensor:
        """What the image processor does, to all images at once: by itself it takes them one by one on the CPU."""
        one = self.image_processor
        options = {name: kwargs.get(name, getattr(one, name)) for name in one.valid_kwargs.__annotations__}
        if options["do_resize"]:
            images = one.resize(images, SizeDict(**dict(options["size"])), options["resample"])
        return one.rescale_and_normalize(
            images,
            options["do_rescale"],
            options["rescale_factor"],
            options["do_normalize"],
            tuple(options["image_mean"]),
            tuple(options["image_std"]),
        )

    def _report_resizing(self, images: Any) -> None:
        size = (self.image_processor.size["width"], self.image_processor.size["height"])
        # Those of a tensor are all alike. Of PIL images, get_image_size returns the width first, unlike of all others.
        some = images[:1] if isinstance(images, Tensor) else images
        sizes = {image.size if isinstance(image, Image.Image) else get_image_size(image)[::-1] for image in some}
        for given in sizes - {size}:
            logger.warning_once(f"images of {given[0]}x{given[1]} pixels are resized to {size[0]}x{size[1]}")


def _flat_pairs(images: Any) -> Any:
    """Left and right images in turn."""
    if isinstance(images, np.ndarray) and images.ndim == 5:
        images = torch.from_numpy(images)
    if isinstance(images, Tensor):
        if images.ndim != 5 or images.shape[1:3] != (2, 3):
            raise ValueError(f"images is a tensor {tuple(images.shape)}; pairs are (B, 2, 3, H, W)")
        return images.flatten(0, 1)
    if images is None or (isinstance(images, list) and not images):
        return images
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise ValueError(f"images is one {type(images).__name__}; give pairs, [[left, right], ...]")
    pairs = images if any(isinstance(pair, list | tuple) for pair in images) else [images]
    for row, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple):
            raise ValueError(f"pair {row} is one {type(pair).__name__}; give two images, [left, right]")
        if len(pair) != 2:
            raise ValueError(f"pair {row} holds {len(pair)} images; give two, [left, right]")
        for image in pair:
            if getattr(image, "ndim", 0) > 3:
                raise ValueError(
                    f"pair {row} holds {tuple(image.shape)}, which is more than one image; stack left and right images "
                    "to (B, 2, 3, H, W), or give pairs, [[left, right], ...]"
                )
    return [image for pair in pairs for image in pair]
