import copy
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests import tiny
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPTNeoXConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from vlmkit.compat.cache import CACHE_NAME
from vlmkit.modules.gated_cross_attention import (
    GatedCrossAttention,
    check_forwards_keywords,
    register_cross_attention_hooks,
)
from vlmkit.modules.language_models import decoder_layers

WIDTH, HEADS, LAYERS, TOKENS, IMAGE_TOKENS = 16, 4, 3, 6, 5
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "vocab_size": 99}
LARGE = {"initializer_range": 0.5}  # with small weights, a broken cache passes
LLAMA = {**SIZES, **LARGE, "intermediate_size": 32, "num_key_value_heads": 2, "pad_token_id": 1}
CONFIGS = {
    "llama": tiny.llama_config(num_hidden_layers=LAYERS, **LARGE),
    "gpt2": tiny.text_config(n_layer=LAYERS, **LARGE),
    "opt": OPTConfig(**SIZES, init_std=0.5, ffn_dim=32, word_embed_proj_dim=WIDTH, max_position_embeddings=64),
    "qwen2": Qwen2Config(**LLAMA),
    "gpt_neox": GPTNeoXConfig(**SIZES, **LARGE, intermediate_size=32, max_position_embeddings=64),
}
OTHERS = [MistralConfig(**LLAMA), PhiConfig(**LLAMA), Qwen3Config(**LLAMA, head_dim=8), SmolLM3Config(**LLAMA)]
every_model = pytest.mark.parametrize("name", CONFIGS)


class Seeing(PreTrainedModel):
    """A language model and the blocks between its layers."""

    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: PreTrainedConfig, interval: int = 2, implementation: str = "sdpa"):
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config)
        attention = tiny.vision_config(attn_implementation=implementation)
        self.cross_attention = GatedCrossAttention(
            attention, hidden_size=WIDTH, num_heads=HEADS, num_layers=LAYERS, interval=interval
        )
        register_cross_attention_hooks(self.language_model.base_model)

    def forward(self, input_ids, image_embeds=None, sees=None, **kwargs):
        if image_embeds is not None:
            key_values = self.cross_attention.cross_attention_states(image_embeds)
            kwargs["cross_attention_hook"] = self.cross_attention.make_hook(key_values, sees)
        embeds = self.language_model.get_input_embeddings()(input_ids)
        return self.language_model.base_model(inputs_embeds=embeds, **kwargs).last_hidden_state


def build(name: str = "llama", is_open: bool = True, **kwargs) -> Seeing:
    torch.manual_seed(0)
    model = Seeing(copy.deepcopy(CONFIGS[name]), **kwargs).eval()
    if is_open:
        open_gates(model.cross_attention)
    return model


@torch.no_grad()
def open_gates(blocks: GatedCrossAttention) -> None:
    for name, parameter in blocks.named_parameters():
        parameter.normal_(mean=float("norm.weight" in name), std=0.3)
        if name.endswith("gate"):
            parameter.fill_(0.7)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two texts of six tokens; an image of two tokens is seen from the second on, one of three from the fourth on."""
    torch.manual_seed(1)
    sees = torch.zeros(2, 1, TOKENS, IMAGE_TOKENS, dtype=torch.bool)
    sees[:, :, 1:, :2] = True
    sees[:, :, 3:, 2:] = True
    return torch.randint(3, 99, (2, TOKENS)), torch.randn(2, IMAGE_TOKENS, WIDTH), sees


@every_model
def test_new_blocks_leave_the_language_model_as_it_is(name):
    model, (ids, images, sees) = build(name, is_open=False), inputs()
    expected = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    expected.load_state_dict(model.language_model.state_dict(), strict=True)
    expected = expected.base_model(ids).last_hidden_state
    assert torch.equal(model(ids, images, sees), expected)
    assert torch.equal(model(ids), expected)
    assert torch.equal(model(ids, cross_attention_hook=None), expected)


@every_model
def test_a_position_depends_on_its_visible_images(name):
    model, (ids, images, sees) = build(name), inputs()
    other = images.clone()
    other[:, 2:] += 1  # the second image
    before, after = model(ids, images, sees), model(ids, other, sees)
    assert torch.equal(before[:, :3], after[:, :3])
    assert ((before - after)[:, 3:].abs().amax(dim=-1) > 1e-3).all()
    assert torch.equal(before[:, :1], model(ids)[:, :1])  # it sees none
    assert ((before - model(ids))[:, 1:].abs().amax(dim=-1) > 1e-3).all()


@every_model
def test_a_text_without_images_gives_the_logits_of_the_language_model(name):
    model, (ids, images, sees) = build(name), inputs()
    sees[0] = False
    outputs = model(ids, images, sees)
    assert torch.equal(outputs[0], model(ids)[0])
    assert not torch.allclose(outputs[1], model(ids)[1], atol=1e-2)


@every_model
def test_token_by_token_is_all_at_once(name):
    model, (ids, images, sees) = build(name), inputs()
    cache, steps = DynamicCache(config=model.language_model.config), []
    for start, end in [(0, 3), *((t, t + 1) for t in range(3, TOKENS))]:
        options = {CACHE_NAME: cache, "use_cache": True}
        steps.append(model(ids[:, start:end], images, sees[:, :, start:end], **options))
    torch.testing.assert_close(torch.cat(steps, dim=1), model(ids, images, sees), atol=1e-4, rtol=1e-4)


def test_one_block_by_hand():
    model, (_, images, sees) = build(), inputs()
    block, x = model.cross_attention.blocks[1], torch.randn(2, TOKENS, WIDTH)
    state = torch.nn.functional.layer_norm(x, (WIDTH,), block.attention_norm.weight, block.attention_norm.bias)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    projections = [block.attention.q_proj, block.attention.k_proj, block.attention.v_proj]
    theirs.in_proj_weight.data = torch.cat([part.weight for part in projections])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in projections])
    theirs.out_proj.load_state_dict(block.attention.out_proj.state_dict())
    seen = sees[0, 0].clone()
    seen[0] = True  # else theirs is NaN
    middle = x + torch.tanh(torch.tensor(0.7)) * theirs(state, images, images, attn_mask=~seen)[0]
    expected = middle + torch.tanh(torch.tensor(0.7)) * block.feed_forward(block.feed_forward_norm(middle))
    expected[:, 0] = x[:, 0]
    read = model.cross_attention.make_hook(model.cross_attention.cross_attention_states(images), sees)
    torch.testing.assert_close(read(2, x), expected)
    assert read(1, x) is x


@pytest.mark.parametrize(("interval", "places"), [(1, [0, 1, 2]), (2, [0, 2]), (3, [0])])
def test_positions_of_the_blocks(interval, places):
    model, (ids, images, sees) = build(interval=interval), inputs()
    entered, order = model.cross_attention.blocks, []
    for row, block in enumerate(entered):
        block.register_forward_hook(lambda *_, row=row: order.append(("block", row)))
    for index, layer in enumerate(decoder_layers(model.language_model)):
        layer.register_forward_hook(lambda *_, index=index: order.append(("layer", index)))
    model(ids, images, sees)
    expected = []
    for index in range(LAYERS):
        expected += [("block", places.index(index))] if index in places else []
        expected.append(("layer", index))
    assert order == expected


def test_keys_and_values_are_one_tensor_with_the_texts_in_front():
    model, (ids, images, sees) = build(), inputs()
    key_values = model.cross_attention.cross_attention_states(images)
    assert key_values.shape == (2, 2, 2, HEADS, IMAGE_TOKENS, WIDTH // HEADS)
    order = [1, 0, 0]  # as beams are ordered
    reader = model.cross_attention.make_hook(key_values[order], sees[order])
    torch.testing.assert_close(model(ids[order], cross_attention_hook=reader), model(ids, images, sees)[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_equals_sdpa_and_neither_is_nan_without_visible_images(dtype):
    (ids, images, sees), outputs = inputs(), []
    sees[0] = False
    for implementation in ("eager", "sdpa"):
        model = build(implementation=implementation).to(dtype)
        given = images.to(dtype, copy=True).requires_grad_()
        outputs.append(model(ids, given, sees))
        outputs[-1].float().square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.cross_attention.parameters())
        assert not given.grad[0].any()
        assert given.grad[1].isfinite().all()
        assert given.grad[1].abs().amax(dim=-1).gt(0).all()
    tolerance = 1e-5 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(*outputs, atol=tolerance, rtol=tolerance)


def test_closed_gates_learn_first():
    model, (ids, images, sees) = build(is_open=False), inputs()
    model(ids, images, sees).square().sum().backward()
    gates = {name: p.grad for name, p in model.cross_attention.named_parameters() if name.endswith("gate")}
    assert len(gates) == 4
    assert all(gate.shape == (1,) and gate.abs() > 0 for gate in gates.values())  # FSDP2 refuses scalars


@every_model
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_gradient(name, use_reentrant):
    ids, images, sees = inputs()
    found = []
    for checkpointed in (False, True):
        model = build(name).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for layer in model.language_model.modules():  # those that apply functions
            if isinstance(getattr(layer, "dropout", None), float):
                layer.dropout = 0.0
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        assert all(block.gradient_checkpointing == checkpointed for block in model.cross_attention.blocks)
        given = images.clone().requires_grad_()
        loss = model(ids, given, sees, use_cache=False).square().mean()
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([loss.detach(), given.grad, *gradients])
    assert len(found[0]) == len(found[1]) > 20
    torch.testing.assert_close(found[0], found[1])


@every_model
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copied", "pickled"]
)
def test_a_copy_uses_its_own_blocks(name, copied):
    model, (ids, images, sees) = build(name), inputs()
    twin, before = copied(model), model(ids, images, sees)
    assert torch.equal(twin(ids, images, sees), before)
    with torch.no_grad():
        twin.cross_attention.blocks[0].attention_gate.zero_()
    assert not torch.allclose(twin(ids, images, sees), before)
    assert torch.equal(model(ids, images, sees), before)


def test_hooks_of_a_second_call_do_nothing():
    model, (ids, images, sees) = build(), inputs()
    before = model(ids, images, sees)
    register_cross_attention_hooks(model.language_model)
    assert torch.equal(model(ids, images, sees), before)


def test_layers_called_by_keyword():
    given, states = OneLayer(), torch.ones(1, 2, 3)
    register_cross_attention_hooks(given)
    given = given.layers
    assert torch.equal(
        given[0](hidden_states=states, cross_attention_hook=lambda index, states: states + index + 1), states * 4
    )
    assert torch.equal(given[0](states, cross_attention_hook=lambda index, states: states + index + 1), states * 4)
    assert torch.equal(given[0](hidden_states=states), states * 2)


class OneLayer(nn.Module):
    """A decoder as far as its layers are concerned."""

    config = tiny.llama_config(num_hidden_layers=1)

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Doubling()])

    def forward(self, **kwargs):
        raise NotImplementedError


def test_a_decoder_without_further_keywords_is_rejected():
    decoder = OneLayer()
    decoder.forward = lambda hidden_states: hidden_states
    with pytest.raises(ValueError, match="OneLayer does not pass keyword arguments on to its layers"):
        register_cross_attention_hooks(decoder)


class Doubling(nn.Module):
    """A layer that refuses a keyword it does not know."""

    def forward(self, hidden_states):
        return hidden_states * 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_peft_trains_its_copy_and_puts_it_back():
    model, (ids, images, sees) = build(), inputs()
    before = model(ids, images, sees)
    lora = LoraConfig(target_modules=r"language_model\..*\.q_proj", modules_to_save=["cross_attention"], r=2)
    wrapped = get_peft_model(model, lora).eval()
    assert torch.equal(wrapped(ids, images, sees), before)
    wrapped(ids, images, sees).square().sum().backward()
    trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert {name.split(".")[3] for name in trained if "cross_attention" in name} == {"modules_to_save"}
    assert all(
        p.grad.abs().sum() > 0 for name, p in trained.items() if "cross_attention" in name and "k_proj.b" not in name
    )
    assert sum("lora_B" in name and bool(p.grad.any()) for name, p in trained.items()) == LAYERS
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.add_(0.3 * torch.randn_like(parameter) if "lora" in name else 0.1)
    after = wrapped(ids, images, sees)
    assert not torch.allclose(after, before, atol=1e-2)
    with wrapped.disable_adapter():
        assert torch.equal(wrapped(ids, images, sees), before)
    torch.testing.assert_close(wrapped.merge_and_unload()(ids, images, sees), after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [*CONFIGS.values(), *OTHERS], ids=lambda config: config.model_type)
def test_decoders_that_forward_keywords_are_accepted(config):
    decoder = AutoModelForCausalLM.from_config(config).base_model
    register_cross_attention_hooks(decoder)
    check_forwards_keywords(decoder)


def test_a_decoder_that_does_not_forward_keywords_is_rejected():
    decoder = AutoModelForCausalLM.from_config(tiny.gpt_neo_config()).base_model
    register_cross_attention_hooks(decoder)
    with pytest.raises(
        ValueError, match=r"GPTNeoModel does not pass keyword arguments on to its layers.* such as Llama"
    ):
        check_forwards_keywords(decoder)


@pytest.mark.parametrize("interval", [-1, 0, LAYERS + 1, 40])
def test_an_interval_that_fits_no_layer(interval):
    message = rf"`cross_layer_interval` must be between 1 and 3, .* but got {interval}"
    with pytest.raises(ValueError, match=message):
        build(interval=interval)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="must divide the width 16, but got 5 heads"):
        GatedCrossAttention(tiny.vision_config(), hidden_size=WIDTH, num_heads=5, num_layers=LAYERS, interval=1)
