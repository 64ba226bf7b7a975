import pytest
import torch
from tests import tiny
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPVisionConfig,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OPTConfig,
    PreTrainedModel,
    ViTModel,
)

from vlmkit import DualEncoderModel
from vlmkit.analysis.parameters import count_parameters
from vlmkit.training import freeze_lower_blocks

BLOCKS = 4


def llama_config(**kwargs) -> LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
    return LlamaConfig(**{**sizes, "vocab_size": 99, "pad_token_id": 0, **kwargs})


def gpt_neo() -> GPTNeoForCausalLM:
    sizes = {"hidden_size": 16, "num_layers": BLOCKS, "num_heads": 2, "attention_types": [[["global", "local"], 2]]}
    return GPTNeoForCausalLM(
        GPTNeoConfig(**sizes, vocab_size=99, max_position_embeddings=32, bos_token_id=1, eos_token_id=1)
    )


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(tiny.text_config(n_layer=BLOCKS))


def llama(tied: bool) -> LlamaForCausalLM:
    return LlamaForCausalLM(llama_config(tie_word_embeddings=tied))


def vision_config() -> CLIPVisionConfig:
    """As many blocks as the language model has."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
    return CLIPVisionConfig(**sizes, image_size=32, patch_size=16)


def llava() -> LlavaForConditionalGeneration:
    """Its decoder has no head of its own."""
    config = LlavaConfig(vision_config=vision_config(), text_config=llama_config(), image_token_index=98)
    return LlavaForConditionalGeneration(config)


def blip2() -> Blip2ForConditionalGeneration:
    """Its decoder is a whole causal language model, tied."""
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
    text = {**sizes, "model_type": "opt", "vocab_size": 99, "max_position_embeddings": 32, "word_embed_proj_dim": 16}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "image_size": 32, "patch_size": 16},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": 99},
        text_config=OPTConfig(**text),
        num_query_tokens=3,
        image_token_index=98,
    )
    return Blip2ForConditionalGeneration(config)


class Captioner(PreTrainedModel):
    """A composite model that says nothing about its language model but its name."""

    def __init__(self):
        super().__init__(tiny.text_config())
        self.connector = nn.Linear(3, 16)
        self.language_model = gpt2()


MODELS = {
    "gpt_neo": (gpt_neo, "transformer.h", "transformer.wte", "transformer.wpe", True),
    "gpt2": (gpt2, "transformer.h", "transformer.wte", "transformer.wpe", True),
    "llama_tied": (lambda: llama(True), "model.layers", "model.embed_tokens", None, True),
    "llama": (lambda: llama(False), "model.layers", "model.embed_tokens", None, False),
    "llava": (llava, "model.language_model.layers", "model.language_model.embed_tokens", None, False),
    "blip2": (
        blip2,
        "language_model.model.decoder.layers",
        "language_model.model.decoder.embed_tokens",
        "language_model.model.decoder.embed_positions",
        True,
    ),
    "captioner": (
        Captioner,
        "language_model.transformer.h",
        "language_model.transformer.wte",
        "language_model.transformer.wpe",
        True,
    ),
}


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def names_below(model: nn.Module, *modules: str | None) -> set[str]:
    prefixes = tuple(f"{name}." for name in modules if name)
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(("build", "blocks", "tokens", "positions", "tied"), MODELS.values(), ids=MODELS)
def test_what_is_frozen(build, blocks, tokens, positions, tied):
    model = build()
    assert freeze_lower_blocks(model, fraction=0.5) == 2
    expected = names_below(model, f"{blocks}.0", f"{blocks}.1", positions, None if tied else tokens)
    assert len(expected) > 10
    assert frozen(model) == expected


@pytest.mark.parametrize(("build", "blocks", "tokens", "positions", "tied"), MODELS.values(), ids=MODELS)
def test_the_token_table_stays_on_request_even_if_it_is_the_head(build, blocks, tokens, positions, tied):
    model = build()
    freeze_lower_blocks(model, fraction=0.5, freeze_token_embeddings=True)
    assert frozen(model) == names_below(model, f"{blocks}.0", f"{blocks}.1", positions, tokens)


@pytest.mark.parametrize(("build", "blocks", "tokens", "positions", "tied"), MODELS.values(), ids=MODELS)
def test_without_a_frozen_block_everything_trains(build, blocks, tokens, positions, tied):
    model = build()
    for fraction in (0, 0.0, 0.24):
        freeze_lower_blocks(model, fraction=1)
        assert freeze_lower_blocks(model, fraction=fraction) == 0
        assert not frozen(model)
    freeze_lower_blocks(model, fraction=0, freeze_token_embeddings=True)
    assert frozen(model) == {f"{tokens}.weight"}


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (gpt2, {"transformer.wte.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"}),
        (lambda: llama(True), {"model.embed_tokens.weight", "model.norm.weight"}),
        (lambda: llama(False), {"lm_head.weight", "model.norm.weight"}),
    ],
    ids=["gpt2", "llama_tied", "llama"],
)
def test_all_blocks_frozen_leave_final_norm_and_head(build, left):
    model = build()
    assert freeze_lower_blocks(model, fraction=1) == BLOCKS
    assert {name for name, _ in model.named_parameters()} - frozen(model) == left


def test_a_later_call_sets_what_trains_anew():
    model = gpt2()
    assert [freeze_lower_blocks(model, fraction=fraction) for fraction in (0.75, 0.5)] == [3, 2]
    again = frozen(model)
    fresh = gpt2()
    freeze_lower_blocks(fresh, fraction=0.5)
    assert again == frozen(fresh)
    freeze_lower_blocks(model, fraction=0.5, freeze_token_embeddings=True)
    freeze_lower_blocks(model, fraction=0.5)
    assert frozen(model) == again


@pytest.mark.parametrize("trains", [True, False])
def test_nothing_outside_the_language_model_is_touched(trains):
    model = blip2()
    outside = [model.vision_model, model.qformer, model.language_projection]
    for module in outside:
        module.requires_grad_(trains)
    for fraction in (0.5, 1, 0):
        freeze_lower_blocks(model, fraction=fraction)
        assert {p.requires_grad for module in outside for p in module.parameters()} == {trains}


def test_a_model_without_a_head():
    model = GPT2Model(tiny.text_config(n_layer=BLOCKS))
    freeze_lower_blocks(model, fraction=0.5)
    assert frozen(model) == names_below(model, "h.0", "h.1", "wpe", "wte")


@pytest.mark.parametrize(("freeze_token_embeddings", "reached"), [(False, BLOCKS), (True, 2)])
def test_a_fixed_token_table_ends_the_backward_pass_at_the_first_trained_block(freeze_token_embeddings, reached):
    model = gpt2()
    freeze_lower_blocks(model, fraction=0.5, freeze_token_embeddings=freeze_token_embeddings)
    needed = []
    for block in model.transformer.h:
        block.register_forward_hook(lambda _module, _inputs, output: needed.append(output[0].requires_grad))
    ids = torch.arange(1, 9)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert needed == [False] * (BLOCKS - reached) + [True] * reached
    assert {name for name, p in model.named_parameters() if p.grad is None} == frozen(model)


@pytest.mark.parametrize(
    ("fraction", "num_frozen", "millions"), [(0, 0, 355.80), (0.4, 9, 240.36), (0.5, 12, 202.59), (0.7, 16, 152.21)]
)
def test_the_published_counts_of_gpt_neo(fraction, num_frozen, millions):
    """GPT-Neo with 24 blocks in a captioner, its vocabulary two tokens larger: 240.36M of 355.80M train at 0.4."""
    config = GPTNeoConfig(
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        attention_types=[[["global", "local"], 12]],
        vocab_size=50259,
        max_position_embeddings=2048,
    )
    with torch.device("meta"):
        model = GPTNeoForCausalLM(config)
    assert freeze_lower_blocks(model, fraction=fraction) == num_frozen
    assert round(count_parameters(model) / 1e6, 2) == 355.80
    assert round(count_parameters(model, trainable_only=True) / 1e6, 2) == millions


@pytest.mark.parametrize("fraction", [-0.1, 1.01, 40, True, False, "0.5", None, float("nan")])
def test_a_fraction_that_is_none(fraction):
    model = gpt2()
    with pytest.raises(ValueError, match=r"`fraction` must be a number from 0 to 1, but got "):
        freeze_lower_blocks(model, fraction=fraction)
    assert not frozen(model)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(2, 2),
        lambda: ViTModel(tiny.vision_config()),
        lambda: DualEncoderModel(tiny.dual_encoder_config()),
    ],
    ids=["module", "image_model", "dual_encoder"],
)
def test_a_model_without_a_decoder(build):
    model = build()
    before = frozen(model)
    with pytest.raises(
        ValueError, match=rf"must have a decoder .*, but got {type(model).__name__}. Pass a causal language model"
    ):
        freeze_lower_blocks(model, fraction=0.5)
    assert frozen(model) == before
