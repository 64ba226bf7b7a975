"""Conversion of timm image processors to image processors of transformers."""

import math

from PIL.Image import Resampling
from transformers import BaseImageProcessor, CLIPImageProcessor


def to_saveable_image_processor(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """Convert a timm image processor, which can only be saved with a timm model, to one that can be saved anywhere.

    Args:
        image_processor: Any image processor. Those of transformers are returned unchanged.

    Returns:
        A `CLIPImageProcessor` with the size, crop, interpolation, mean and standard deviation of timm. It resizes
        tensors instead of PIL images: pixel values differ by about 1/255, and crops with an odd margin are shifted by
        one pixel.

    Raises:
        ValueError: If the crop mode is neither "squash" nor "center" with a square size.

    Example:
        >>> to_saveable_image_processor(CLIPImageProcessor(size={"shortest_edge": 32})).size["shortest_edge"]
        32
    """
    # Compared by name, because importing the class would import timm, which is slow.
    if type(image_processor).__name__ != "TimmWrapperImageProcessor":
        return image_processor
    config = image_processor.data_config
    _, height, width = config["input_size"]
    if config["crop_mode"] == "squash":
        size = {"height": math.floor(height / config["crop_pct"]), "width": math.floor(width / config["crop_pct"])}
    elif config["crop_mode"] == "center" and height == width:
        size = {"shortest_edge": math.floor(height / config["crop_pct"])}
    else:
        raise ValueError(
            f"The crop mode of a timm image processor must be 'squash', or 'center' with a square size, but got "
            f"{config['crop_mode']!r} with {height} x {width} pixels. Use an image processor of transformers."
        )
    return CLIPImageProcessor(
        size=size,
        crop_size={"height": height, "width": width},
        resample=Resampling[config["interpolation"].upper()],
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
    )
