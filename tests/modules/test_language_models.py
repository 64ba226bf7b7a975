"""Which language models can be built into others; the rest is told at once."""

import pytest
import torch
from tests import tiny
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    Qwen3Config,
)

from vlmkit.modules.language_models import check_plain_language_model, decoder_layers

WIDTH = {"hidden_size": 32, "vocab_size": 64, "num_hidden_layers": 2, "initializer_range": 0.5}
SIZES = {**WIDTH, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = {**SIZES, "head_dim": 8, "num_key_value_heads": 2}
GPT_NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64),
        GPTNeoConfig(**GPT_NEO, vocab_size=64),
        Qwen3Config(**GROUPED),
    ],
    ids=lambda config: config.model_type,
)
def test_plain_ones_pass(config):
    check_plain_language_model(AutoModelForCausalLM.from_config(config).eval())
    check_plain_language_model(AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GraniteConfig(**SIZES, logits_scaling=2.0), "GraniteForCausalLM must compute its logits by a linear head"),
        (CohereConfig(**SIZES), "CohereForCausalLM must compute its logits by"),
        (Gemma2Config(**GROUPED), "Gemma2ForCausalLM must compute its logits by"),
        (BertConfig(**SIZES, is_decoder=True), "BertLMHeadModel must compute its logits by"),
        (MambaConfig(**WIDTH), "MambaForCausalLM must have a key/value cache"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_others_are_rejected(config, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        check_plain_language_model(AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (tiny.llama_config(), "model.layers"),
        (tiny.text_config(), "transformer.h"),
        (tiny.gpt_neo_config(), "transformer.h"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_the_layers_of_a_decoder_with_and_without_its_head(config, path):
    model = AutoModelForCausalLM.from_config(config)
    assert decoder_layers(model) is decoder_layers(model.base_model) is model.get_submodule(path)
    assert len(decoder_layers(model)) == 2


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])], ids=["layer", "list"])
def test_what_has_no_layers(module):
    with pytest.raises(
        ValueError, match=rf"{type(module).__name__} must have a list of .* Use a causal language model"
    ):
        decoder_layers(module)
