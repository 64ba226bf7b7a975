"""Causal language models of transformers as parts of a vision-language model: the decoder and its head."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedConfig, PreTrainedModel

from vlmkit.compat.auto_classes import model_class
from vlmkit.compat.cache import CACHE_NAME


def build_decoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a causal language model without its head.

    Args:
        config: Configuration of a causal language model of transformers.

    Raises:
        ValueError: If the model type is not a causal language model, or uses bidirectional attention.
    """
    model = _build_causal_language_model(config)
    # GPT-NeoX is causal but not a "decoder"; the models of BERT's family are causal as decoders only.
    is_causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if not (is_causal or getattr(model.config, "is_decoder", True)):
        raise ValueError(
            f"Model type {config.model_type!r} uses bidirectional attention and cannot generate text. "
            "Set `text_config.is_decoder=True`."
        )
    return model.get_decoder()  # without the wrapper that BART and OPT put around it


def build_lm_head(config: PreTrainedConfig) -> nn.Linear:
    """Build the language modeling head of a causal language model.

    Args:
        config: See [`build_decoder`].

    Returns:
        A new linear layer of the same shape as the head of such a model.
    """
    with torch.device("meta"):  # only the shape is needed
        head = _build_causal_language_model(config).get_output_embeddings()
    return nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)


def head_parallel_plan(config: PreTrainedConfig) -> str | None:
    """Return how the head of a causal language model is sharded by tensor parallelism, or `None` if it is not."""
    causal_class: Any = model_class(AutoModelForCausalLM, config)
    return next(iter((causal_class._tp_plan or {}).values()), None)


def _build_causal_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    if model_class(AutoModelForCausalLM, config) is None:
        raise ValueError(
            f"Model type {config.model_type!r} is not a causal language model. Use a decoder such as gpt2 or llama."
        )
    return AutoModelForCausalLM.from_config(config)


def embedding_name(decoder: PreTrainedModel) -> str:
    """Return the name of the token embeddings within a decoder, such as `"embed_tokens"` or `"wte"`."""
    embeddings = decoder.get_input_embeddings()
    return next(name for name, module in decoder.named_modules() if module is embeddings)


def decoder_layers(decoder: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a language model, from the lowest.

    Args:
        decoder: Language model, with or without its head.

    Raises:
        ValueError: If no module list has `config.num_hidden_layers` entries.

    Example:
        >>> from transformers import GPT2Config, GPT2Model
        >>> decoder = GPT2Model(GPT2Config(n_embd=16, n_layer=5, n_head=2))
        >>> decoder_layers(decoder) is decoder.h
        True
    """
    num_layers = getattr(getattr(decoder, "config", None), "num_hidden_layers", None)
    for module in decoder.modules() if num_layers else ():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(
        f"{type(decoder).__name__} must have a list of `config.num_hidden_layers` layers, but none was found. "
        "Use a causal language model."
    )


@torch.no_grad()
def check_plain_language_model(model: PreTrainedModel) -> None:
    """Check that a language model consists of decoder layers, a key/value cache and a linear head.

    Args:
        model: Language model with its head, in evaluation mode.

    Raises:
        ValueError: If the model scales or caps its logits, has layers before its head, or has no key/value cache.
    """
    input_ids = torch.arange(4, device=model.device)[None]
    outputs, states = model(input_ids, use_cache=True), model.base_model(input_ids).last_hidden_state
    kind = type(model).__name__
    if not _has_keys_and_values(outputs.get(CACHE_NAME)):
        raise ValueError(f"{kind} must have a key/value cache, but returns none. Use a language model with attention.")
    if not torch.allclose(model.get_output_embeddings()(states), outputs.logits, rtol=1e-2, atol=1e-3):
        raise ValueError(
            f"{kind} must compute its logits by a linear head, but it scales or caps them, or has layers before the "
            "head, which would be lost. Use another language model, such as Llama, SmolLM or Qwen."
        )


def _has_keys_and_values(cache: Cache | None) -> bool:
    """Return whether a cache holds keys and values. That of Mamba only holds states, and has no sequence length."""
    try:
        return cache is not None and cache.get_seq_length() > 0
    except ValueError:
        return False
