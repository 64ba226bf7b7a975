"""Causal language models from their configuration."""

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


def causal_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a language model that sees only what comes before the word it predicts.

    Args:
        config: of any such model of transformers.

    Raises:
        ValueError: it is another kind of model, or one that sees the words it shall predict.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model; give one, such as gpt2 or llama")
    model = AutoModelForCausalLM.from_config(config)
    # GPT-NeoX is causal and no "decoder"; the families of BERT are causal as decoders only.
    is_causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if not (is_causal or getattr(model.config, "is_decoder", True)):
        raise ValueError(f"{config.model_type} sees the words that it shall predict; set text_config.is_decoder=True")
    return model


def decoder_layers(decoder: PreTrainedModel) -> nn.ModuleList:
    """The layers of a language model, from the lowest.

    Args:
        decoder: with or without its head.

    Raises:
        ValueError: it has no list of as many modules as its configuration counts layers.

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
        f"{type(decoder).__name__} has no list of `config.num_hidden_layers` layers; give a causal language model"
    )


@torch.no_grad()
def check_plain_language_model(model: PreTrainedModel) -> None:
    """Refuse a language model of which more would be needed than its layers, its cache and its linear head.

    Args:
        model: in evaluation mode.

    Raises:
        ValueError: it scales or caps its logits, has layers before its head, or no cache of keys and values.
    """
    input_ids = torch.arange(4, device=model.device)[None]
    outputs, states = model(input_ids, use_cache=True), model.base_model(input_ids).last_hidden_state
    kind = type(model).__name__
    if outputs.get("past_key_values") is None:
        raise ValueError(f"{kind} has no cache of keys and values; give a language model with attention")
    if not torch.allclose(model.get_output_embeddings()(states), outputs.logits, rtol=1e-2, atol=1e-3):
        raise ValueError(
            f"{kind} makes its logits by more than a linear head: it scales or caps them, or has layers before the "
            "head, which would be lost; give another language model, such as a Llama, SmolLM or Qwen"
        )
