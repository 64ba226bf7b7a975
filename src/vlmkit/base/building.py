"""Assembling a model and its processor from pretrained parts.

The processor comes first. The model takes all ids and sizes from it, so that the rules that tie the two are written
once, in the processor.
"""

import os
from typing import Any

import torch
from transformers import PreTrainedConfig

from vlmkit.base.modeling import VlmkitModel
from vlmkit.base.processing import ImageTextProcessor, load_tokenizer
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

    Raises:
        ValueError: If the processor was built for another class of model or another text model, or contradicts a field.
    """
    if processor is not None:
        check_processor(model_class, processor, text)
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


def check_processor(model_class: type[VlmkitModel], processor: ImageTextProcessor, text: str | os.PathLike) -> None:
    """Check that a processor belongs to a class of models, and has the tokens of a text model.

    Args:
        model_class: Class of the model.
        processor: Processor of the model.
        text: Folder or Hub id of the text model. A model that is stored without a tokenizer is not checked.

    Raises:
        ValueError: If the processor has another class, or its tokenizer has other token ids than the text model.
    """
    expected = model_class.processor_class
    if not isinstance(processor, expected):
        raise ValueError(
            f"`processor` must be a {expected.__name__}, but got a {type(processor).__name__}. "
            f"Build it with `{expected.__name__}.from_vision_text_pretrained(vision, text)`."
        )
    try:
        tokenizer = load_tokenizer(text)
    except (OSError, ValueError):
        return
    if tokenizer.get_vocab().items() - processor.tokenizer.get_vocab().items():
        raise ValueError(
            f"`processor` must have the tokens of {os.fspath(text)!r}, but has other tokens or ids. "
            f"Build it with `{expected.__name__}.from_vision_text_pretrained(vision, text)`."
        )


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
