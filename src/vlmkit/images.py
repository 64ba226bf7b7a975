"""Images of any mode as 8-bit RGB."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB without losing its content.

    `PIL.Image.convert` alone clips 16-bit images to white and paints transparent pixels in their hidden colour; here
    16-bit values are scaled to 8 bits and transparent pixels are laid on white.

    Args:
        image: an image of any mode (L, LA, P, RGBA, CMYK, I;16, ...).

    Example:
        >>> from PIL import Image
        >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16 or only 8
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        eight_bits = image.mode == "I" and values.max(initial=0) <= 255
        image = Image.fromarray((values if eight_bits else values >> 8).astype(np.uint8))
    elif image.mode == "F":  # a float image holds either [0, 1] or [0, 255]
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        image = Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def denormalized_image(pixel_values: Tensor, image_processor: Any) -> Image.Image:
    """Return the image that a processor has prepared, resized and cropped, without its normalization.

    Args:
        pixel_values: `(3, H, W)`, as the processor made them.
        image_processor: which did; its mean and standard deviation are undone.

    Example:
        >>> from transformers import CLIPImageProcessor
        >>> processor = CLIPImageProcessor(size={"shortest_edge": 4}, crop_size={"height": 4, "width": 4})
        >>> wide = processor(Image.new("RGB", (8, 4), "red"), return_tensors="pt")["pixel_values"]
        >>> denormalized_image(wide[0], processor).size
        (4, 4)
    """
    pixels = pixel_values.float().cpu()
    if image_processor.do_normalize:
        mean, std = torch.tensor([image_processor.image_mean, image_processor.image_std])[..., None, None]
        pixels = pixels * std + mean
    return Image.fromarray((pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def rgb_images(images: Any) -> Any:
    """Apply [`to_rgb`] to the PIL images and image files of a nested list; everything else stays as it is.

    Args:
        images: an image, a path, an array, a URL, or nested lists of them. transformers would read a 16-bit file
            unscaled, and a transparent one in its hidden colours.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: a file holds no image.
    """
    if isinstance(images, str | os.PathLike):
        name = os.fspath(images)
        if os.path.isfile(name):
            with Image.open(name) as image:
                return to_rgb(ImageOps.exif_transpose(image))
        # transformers would take a path for an image in base64, which has no dots.
        if "." in name and not name.startswith(("http://", "https://", "data:")):
            raise FileNotFoundError(f"there is no image file {name}; give an existing file, or a URL")
    if isinstance(images, Image.Image):
        return to_rgb(images)
    if isinstance(images, list | tuple):
        return [rgb_images(image) for image in images]
    return images
