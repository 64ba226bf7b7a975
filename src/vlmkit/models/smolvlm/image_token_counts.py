"""Number of image tokens of a design, which ties the placeholders of the processor to the embeddings of the model."""

from transformers import BaseImageProcessor, PreTrainedConfig

from vlmkit.modules.vision_tower import num_vision_patches


def default_num_query_tokens(connector: str) -> int:
    """Return the number of learned queries that a connector has by default."""
    return 64 if connector == "perceiver" else 32


def fixed_num_image_tokens(connector: str, *, fusion: str, num_query_tokens: int) -> int | None:
    """Return the number of image tokens of a crop, or `None` if it depends on the size of the crop.

    This is the rule that ties the placeholders of the processor to the embeddings of the model.

    Args:
        connector: Connector of the design, see [`VlmkitSmolVLMConfig`].
        fusion: Fusion of the design.
        num_query_tokens: Number of queries of a Q-Former or Perceiver.

    Example:
        >>> fixed_num_image_tokens("perceiver", fusion="autoregressive", num_query_tokens=64)
        64
        >>> fixed_num_image_tokens("mlp", fusion="cross_attention", num_query_tokens=64)
        1
        >>> fixed_num_image_tokens("mlp", fusion="autoregressive", num_query_tokens=64) is None
        True
    """
    if fusion == "cross_attention":
        return 1
    return num_query_tokens if connector in ("qformer", "perceiver") else None


def num_tokens_of_fixed_size(
    image_processor: BaseImageProcessor, vision_config: PreTrainedConfig, pixel_shuffle_factor: int
) -> int:
    """Return the number of image tokens of images of a fixed size, one for each block of patches.

    Args:
        image_processor: Image processor that resizes or crops all images to the same size.
        vision_config: Configuration of the vision backbone.
        pixel_shuffle_factor: Side of a block of patches, or 1.

    Raises:
        ValueError: If the size depends on the image, or the patches do not fill whole blocks.
    """
    crop = getattr(image_processor, "crop_size", None) if getattr(image_processor, "do_center_crop", False) else None
    size = dict(crop or image_processor.size or {})
    if not {"height", "width"} <= {name for name, side in size.items() if side}:
        raise ValueError(
            f"{type(image_processor).__name__} must resize images to a fixed height and width, but its size is {size}. "
            "Pass `size` to build a `VlmkitSmolVLMImageProcessor`, which computes the number of image tokens itself."
        )
    height, width = size["height"], size["width"]
    num_patches = num_vision_patches(vision_config, height=height, width=width)
    num_image_tokens, rest = divmod(num_patches, pixel_shuffle_factor**2)
    if rest:
        raise ValueError(
            f"`pixel_shuffle_factor` must divide the rows and columns of the {num_patches} patches of an image of "
            f"{height} x {width} pixels, but got {pixel_shuffle_factor}. Choose another factor or image size."
        )
    return num_image_tokens
