"""Processor of [`PairedCifarAligner`], for pairs of images."""

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
    """Processor of [`PairedCifarAligner`]: pairs of images to `pixel_values (B, 3, H, 2H)`.

    Each image is resized to the square size of the image processor, rescaled and normalized. The left and the right
    image are then joined side by side. Images of other sizes are reported in a warning, once for each size.

    Args:
        image_processor: Image processor of a single image. It must resize to a square, and neither crop nor pad.

    Raises:
        ValueError: If `image_processor` crops or pads, or its size is not a square of a fixed size.

    Example:
        >>> processor = PairedCifarAlignerProcessor.for_cifar100()
        >>> pairs = torch.zeros(5, 2, 3, 32, 32, dtype=torch.uint8)
        >>> processor(images=pairs, return_tensors="pt")["pixel_values"].shape
        torch.Size([5, 3, 32, 64])
    """

    def __init__(self, image_processor: BaseImageProcessor):
        size = dict(image_processor.size or {})
        if size.get("height") is None or size.get("height") != size.get("width"):
            raise ValueError(
                f"`image_processor.size` must be a square of a fixed size, but got {size}. Set `height` and `width` to "
                "the same number."
            )
        for step in ("do_center_crop", "do_pad"):
            if value := getattr(image_processor, step, None):
                raise ValueError(
                    f"`image_processor.{step}` must be `False`, but got `{value}`. Images are resized "
                    "without cropping or padding."
                )
        super().__init__(image_processor)

    @classmethod
    def for_cifar100(cls, image_size: int = 32) -> "PairedCifarAlignerProcessor":
        """Build a processor with the mean and standard deviation of the training images of CIFAR-100.

        Args:
            image_size: Side of each image, in pixels. A larger side, such as 64, increases the resolution of the
                feature maps of CNNs that were designed for larger images.
        """
        size = {"height": image_size, "width": image_size}
        return cls(ViTImageProcessor(size=size, image_mean=list(_CIFAR100_MEAN), image_std=list(_CIFAR100_STD)))

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> tuple:
        """Flatten pairs of images, and convert images of other modes to RGB.

        Args:
            images: Pairs `[[left, right], ...]` of images, arrays or image files, a single pair `[left, right]`, or a
                tensor or array `(B, 2, 3, H, W)`.
            text: Must be `None`, because the model contains the captions.
            **kwargs: Passed to [`VlmkitProcessor.prepare_inputs_layout`].

        Returns:
            The images of all pairs, the left image of a pair before the right one, and `None` for each other input.

        Raises:
            FileNotFoundError: If an image file does not exist.
            ValueError: If a text is given, or `images` are not pairs.
        """
        if text is not None:
            raise ValueError(
                "`text` must not be passed to this processor. The captions are in the caption bank of the model."
            )
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
        """Process a batch of images at once. The image processor itself would process them one by one on the CPU."""
        processor = self.image_processor
        options = {name: kwargs.get(name, getattr(processor, name)) for name in processor.valid_kwargs.__annotations__}
        if options["do_resize"]:
            images = processor.resize(images, SizeDict(**dict(options["size"])), options["resample"])
        return processor.rescale_and_normalize(
            images,
            options["do_rescale"],
            options["rescale_factor"],
            options["do_normalize"],
            tuple(options["image_mean"]),
            tuple(options["image_std"]),
        )

    def _report_resizing(self, images: Any) -> None:
        """Log a warning for each size of images that have to be resized."""
        size = (self.image_processor.size["width"], self.image_processor.size["height"])
        samples = images[:1] if isinstance(images, Tensor) else images  # all images of a tensor have the same size
        # get_image_size returns the width of PIL images first, and the height of arrays and tensors.
        sizes = {image.size if isinstance(image, Image.Image) else get_image_size(image)[::-1] for image in samples}
        for width, height in sizes - {size}:
            logger.warning_once(f"Images of {width}x{height} pixels are resized to {size[0]}x{size[1]}.")


def _flat_pairs(images: Any) -> Any:
    """Flatten pairs to a sequence of alternating left and right images.

    Raises:
        ValueError: If `images` are not pairs. The message names the row.
    """
    if isinstance(images, np.ndarray) and images.ndim == 5:
        images = torch.from_numpy(images)
    if isinstance(images, Tensor):
        if images.ndim != 5 or images.shape[1:3] != (2, 3):
            raise ValueError(
                "`images` must have the shape (B, 2, 3, H, W) if they are a tensor or array, but got "
                f"{tuple(images.shape)}."
            )
        return images.flatten(0, 1)
    if images is None or (isinstance(images, list) and not images):
        return images
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise ValueError(f"`images` must be a list of pairs [[left, right], ...], but got {type(images).__name__}.")
    pairs = images if any(isinstance(pair, list | tuple) for pair in images) else [images]
    for row, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple):
            raise ValueError(f"Pair {row} must be a list [left, right], but got {type(pair).__name__}.")
        if len(pair) != 2:
            raise ValueError(f"Pair {row} must consist of two images [left, right], but got {len(pair)}.")
        for image in pair:
            if getattr(image, "ndim", 0) > 3:
                raise ValueError(
                    f"Pair {row} must consist of single images, but got a batch of shape {tuple(image.shape)}. Stack "
                    "left and right images to (B, 2, 3, H, W), or pass a list of pairs [[left, right], ...]."
                )
    return [image for pair in pairs for image in pair]
