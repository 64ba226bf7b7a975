"""Conversion of images to 8-bit RGB."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    In contrast to `PIL.Image.Image.convert`, 16-bit values are scaled to 8 bits instead of clipped, and transparent
    pixels are composited over white instead of shown in their hidden color.

    Args:
        image: Image of any mode (L, LA, P, RGBA, CMYK, I;16, ...). Float images (F) have values from 0 to 1 or from 0
            to 255.

    Returns:
        An image of the same size and the mode RGB.

    Example:
        >>> from PIL import Image
        >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.mode.startswith("I"):  # 16-bit images, or 32-bit images with 8-bit or 16-bit values
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        eight_bits = image.mode == "I" and values.max(initial=0) <= 255
        image = Image.fromarray((values if eight_bits else values >> 8).astype(np.uint8))
    elif image.mode == "F":  # values in [0, 1] or [0, 255]
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        image = Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def denormalized_image(pixel_values: Tensor, image_processor: Any) -> Image.Image:
    """Convert the output of an image processor back to an image, by undoing the normalization.

    Resizing and cropping are not undone.

    Args:
        pixel_values: Output of the processor for one image, `(3, H, W)`.
        image_processor: Image processor with the attributes `do_normalize`, `image_mean` and `image_std`.

    Returns:
        An RGB image of W x H pixels.

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
    """Convert PIL images and image files to RGB with [`to_rgb`].

    Files are rotated according to their EXIF orientation. Call this function before an image processor of transformers,
    which does not scale 16-bit files, and shows transparent pixels in their hidden color.

    Args:
        images: Image, path of an image file, array or URL, or nested lists of these.

    Returns:
        The same structure with PIL images in RGB. Arrays and URLs are not changed, and tuples become lists.

    Raises:
        FileNotFoundError: If an image file does not exist.
        OSError: If a file is not an image.

    Example:
        >>> [image.mode for image in rgb_images([Image.new("L", (2, 2)), Image.new("RGBA", (2, 2))])]
        ['RGB', 'RGB']
    """
    if isinstance(images, str | os.PathLike):
        name = os.fspath(images)
        if os.path.isfile(name):
            with Image.open(name) as image:
                return to_rgb(ImageOps.exif_transpose(image))
        # transformers treats an unknown path as a base64 image. Base64 does not contain dots.
        if "." in name and not name.startswith(("http://", "https://", "data:")):
            raise FileNotFoundError(f"The image file {name} does not exist. Pass an existing file or a URL.")
    if isinstance(images, Image.Image):
        return to_rgb(images)
    if isinstance(images, list | tuple):
        return [rgb_images(image) for image in images]
    return images
