"""Assembling a model and its processor from pretrained parts.

The processor comes first. The model takes all ids and sizes from it, so that the rules that tie the two are written
once, in the processor.
"""

import os
from typing import Any

import torch
from transformers import PreTrainedConfig

from vlmkit.base.modeling import VlmkitModel
from vlmkit.base.processing import ImageTextProcessor
from vlmkit.modules.towers import get_text_config, get_vision_config, load_backbone_config
from vlmkit.modules.vision_tower import VisionTower


def build_from_pretrained(
    model_class: type[VlmkitModel],
    *,
    vision: str | os.PathLike,
    text: str | os.PathLike,
    processor: ImageTextProcessor | None,
    dtype: torch.dtype,
    **config: Any,
) -> Any:
    """Build a model from a pretrained vision model and a pretrained text model.

    Args:
        model_class: Class with `vision_tower` (in its base model) and `load_text_backbone`.
        vision: Folder or Hub id of the vision model.
        text: Folder or Hub id of the text model.
        processor: Processor of the same two models, which completes the configuration.
        dtype: Data type of the model weights.
        **config: Fields of the configuration.

    Returns:
        The model, in evaluation mode.
    """
    fields = {
        "vision_config": load_backbone_config(vision, get_vision_config),
        "text_config": grown_text_config(text, processor),
        **(config if processor is None else processor.complete_config(config)),
    }
    model: Any = model_class._from_config(model_class.config_class(**fields), dtype=dtype)
    # After construction, which initializes all weights. The model may have adapted its configurations.
    backbone = VisionTower.load_backbone(vision, model.config.vision_config, dtype=dtype)
    model.base_model.vision_tower.set_backbone(backbone)
    model.load_text_backbone(text, dtype)
    return model.eval()


def grown_text_config(text: str | os.PathLike, processor: ImageTextProcessor | None) -> PreTrainedConfig:
    """Load the configuration of a text model, with the vocabulary and the special tokens of a processor.

    Args:
        text: Folder or Hub id of the text model.
        processor: Processor whose tokenizer may have more tokens than the text model.

    Raises:
        ValueError: If it is not a text model.
    """
    config = load_backbone_config(text, get_text_config)
    if not hasattr(config, "vocab_size"):
        raise ValueError(
            f"Model type {config.model_type!r} has no vocabulary. Pass a causal language model or a text encoder as "
            "`text`."
        )
    if processor is not None:
        config.vocab_size = max(config.vocab_size, len(processor.tokenizer))
        for name, token_id in processor.special_token_ids().items():
            setattr(config, name, token_id)
    return config
