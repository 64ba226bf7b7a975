"""Which language models can be built into others; the rest is told at once."""

import pytest
import torch
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

from vlmkit.modules.language_models import check_plain_language_model

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
        (GraniteConfig(**SIZES, logits_scaling=2.0), "GraniteForCausalLM makes its logits by more than a linear head"),
        (CohereConfig(**SIZES), "CohereForCausalLM makes its logits by more"),
        (Gemma2Config(**GROUPED), "Gemma2ForCausalLM makes its logits by more"),
        (BertConfig(**SIZES, is_decoder=True), "BertLMHeadModel makes its logits by more"),
        (MambaConfig(**WIDTH), "MambaForCausalLM has no cache of keys and values"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_others_are_refused(config, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        check_plain_language_model(AutoModelForCausalLM.from_config(config).eval())
