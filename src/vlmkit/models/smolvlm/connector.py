"""The connector that a configuration of [`SmolVLM`] asks for."""

import torch
from torch import Tensor, nn

from vlmkit.models.smolvlm.configuration_smolvlm import VlmkitSmolVLMConfig
from vlmkit.modules.connectors import MLPConnector, PerceiverConnector, PixelShuffleConnector, QFormerConnector
from vlmkit.modules.text_encoders import encoder_sizes


def build_connector(config: VlmkitSmolVLMConfig, vision_size: int, text_size: int) -> nn.Module:
    """Build what makes the images' tokens in the language model.

    Args:
        config: the model's.
        vision_size: width of the vision tower's tokens.
        text_size: width of the tokens that the language model takes.

    Raises:
        ValueError: as the connector raises, such as for heads that do not divide its width.
    """
    if config.connector == "mlp":
        return MLPConnector(vision_size, text_size)
    if config.connector == "pixel_shuffle":
        return PixelShuffleConnector(vision_size, text_size, config.pixel_shuffle_factor)
    num_queries, num_heads = config.num_query_tokens or 0, config.num_cross_attention_heads
    if config.connector == "perceiver":
        text_config = config.get_text_config()
        width = getattr(text_config, "intermediate_size", None) or 4 * text_size
        depth, num_heads = config.perceiver_depth, num_heads or text_config.num_attention_heads
        return PerceiverConnector(config, vision_size, text_size, width, num_queries, depth, num_heads)
    sizes = encoder_sizes(config.qformer_config)
    frequency = config.cross_attention_frequency
    return QFormerConnector(config, vision_size, sizes, num_queries, num_heads, frequency, text_size)


def num_places(config: VlmkitSmolVLMConfig, is_place: Tensor, num_images: int, mask: Tensor | None) -> Tensor:
    """How many of the texts' places each image has `(I,)`, if all of them are given.

    Args:
        config: the model's, with images in the places of texts.
        is_place: `(B, T)`, true where a token of an image belongs.
        num_images: I.
        mask: `(I, rows, columns)`, of their pixels or tokens, where images differ in size.
    """
    if config.connector in ("qformer", "perceiver"):
        return torch.full((num_images,), config.num_query_tokens or 0, device=is_place.device)
    areas = torch.ones(num_images, device=is_place.device) if mask is None else mask.flatten(1).sum(dim=1)
    return (is_place.sum() * areas / areas.sum()).round().long()  # every patch has its place
