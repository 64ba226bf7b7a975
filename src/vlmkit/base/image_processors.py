"""timm's preprocessing as an ordinary image processor of transformers."""

import math

from PIL.Image import Resampling
from transformers import BaseImageProcessor, CLIPImageProcessor


def to_saveable_image_processor(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """Translate a timm image processor, which only timm's own checkpoints can carry, to one that can be saved.

    Args:
        image_processor: any; all but timm's are returned as they are.

    Returns:
        A `CLIPImageProcessor` with timm's size, crop, interpolation, mean and standard deviation. It resizes tensors
        where timm resizes PIL images: pixels differ by about one level of 255, and where the margin of a crop is odd,
        the crop by one pixel.

    Raises:
        ValueError: timm's crop mode is neither "squash" nor "center" to a square.

    Example:
        >>> to_saveable_image_processor(CLIPImageProcessor(size={"shortest_edge": 32})).size["shortest_edge"]
        32
    """
    # By name: timm is heavy, and importing its processor's class would load it.
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
            f"timm's crop mode {config['crop_mode']!r} to {height}x{width} pixels has no counterpart; "
            "give a transformers image processor"
        )
    return CLIPImageProcessor(
        size=size,
        crop_size={"height": height, "width": width},
        resample=Resampling[config["interpolation"].upper()],
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
    )
