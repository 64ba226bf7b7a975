import copy

import pytest
import torch
from peft import PeftModel
from tests import tiny
from transformers import AutoModel, ResNetConfig, SiglipVisionConfig

from vlmkit import DualEncoderModel, SmolVLM
from vlmkit.training import adapt_backbones, load_lora

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's


def new_model(**text) -> SmolVLM:
    torch.manual_seed(0)
    sizes = {"initializer_range": 0.2, "tie_word_embeddings": True, **tiny.CHAT_TOKENS, **text}
    return SmolVLM(tiny.smolvlm_config(text_config=tiny.llama_config(**sizes))).eval()


def trained(model: SmolVLM, **modes) -> PeftModel:
    adapted = adapt_backbones(model, **{"rank": 2, "alpha": 4, **modes})
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # one for lora_B, which starts at zero, one for lora_A behind it
        optimizer.zero_grad()
        adapted(**tiny.smolvlm_inputs()).loss.backward()
        optimizer.step()
    return adapted.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(**tiny.smolvlm_inputs()).logits


def test_all_linear_layers_of_the_language_model_but_the_head_are_adapted():
    model = new_model(tie_word_embeddings=False)
    adapted = adapt_backbones(model)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    connector = {name for name in names if name.startswith("base_model.model.model.connector.modules_to_save.default.")}
    assert len(connector) == len(list(new_model().model.connector.parameters()))
    prefix = "base_model.model.model.language_model."
    layers = {name.removeprefix(prefix).partition(".lora_")[0] for name in names - connector}
    projections = ["self_attn." + name for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    projections += ["mlp." + name for name in ("gate_proj", "up_proj", "down_proj")]
    assert layers == {f"layers.{layer}.{name}" for layer in range(2) for name in projections}
    [config] = adapted.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (64, 128, 0.1, False)


def test_gpt2_is_adapted_as_well():
    model = SmolVLM(tiny.smolvlm_config(text_config=tiny.text_config()))
    adapted = adapt_backbones(model, rank=2)
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2 * 4


@pytest.mark.parametrize("text", ["lora", "dora"])
def test_adapter_and_merged_model_come_back_with_connector_and_all(text, tmp_path):
    model = new_model()
    model.save_pretrained(tmp_path / "base")
    before = logits(model)
    adapted = trained(SmolVLM.from_pretrained(tmp_path / "base"), text=text)
    expected = logits(adapted)
    assert (expected - before).abs().max() > 1e-2
    adapted.save_pretrained(tmp_path / "adapter")

    restored = load_lora(SmolVLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(restored), expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in restored.parameters())
    merged = restored.merge_and_unload()
    assert type(merged) is SmolVLM
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded, report = AutoModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values()), report
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5)


def test_the_adapters_folder_alone_finds_its_base(tmp_path):
    new_model().save_pretrained(tmp_path / "base")
    adapted = trained(SmolVLM.from_pretrained(tmp_path / "base"))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = AutoModel.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=1e-4, atol=1e-5)


def test_transformers_alone_must_not_load_dora(tmp_path):
    new_model().save_pretrained(tmp_path / "base")
    trained(SmolVLM.from_pretrained(tmp_path / "base"), text="dora").save_pretrained(tmp_path / "adapter")
    for loading in (AutoModel, SmolVLM):
        with pytest.raises(ValueError, match="holds a DoRA adapter, and transformers loses its magnitudes"):
            loading.from_pretrained(tmp_path / "adapter")


def test_training_can_go_on(tmp_path):
    model = new_model()
    trained(copy.deepcopy(model)).save_pretrained(tmp_path)
    adapted = load_lora(model, tmp_path, is_trainable=True)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert names == {name for name, p in adapt_backbones(new_model(), rank=2).named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "sizes", [{"hidden_size": 24}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"intermediate_size": 40}]
)
def test_an_adapter_for_another_base_is_refused(sizes, tmp_path):
    new_model().save_pretrained(tmp_path / "its_base")
    trained(SmolVLM.from_pretrained(tmp_path / "its_base")).save_pretrained(tmp_path / "adapter")
    other = new_model(**sizes)
    with pytest.raises(ValueError, match=r"The adapter in .* was trained on .*its_base and does not fit") as error:
        load_lora(other, tmp_path / "adapter")
    assert "Add it to the base model that it was trained on" in str(error.value)


def test_what_is_no_adapter_or_has_no_connector_is_refused(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path} must contain an adapter of peft, but none was found"):
        load_lora(new_model(), tmp_path)
    with pytest.raises(ValueError, match="`rank` must be at least 1, but got 0"):
        adapt_backbones(new_model(), rank=0)
    with pytest.raises(ValueError, match=r"`model` must have a connector .*, but got DualEncoderModel"):
        adapt_backbones(DualEncoderModel(tiny.dual_encoder_config()))


ADAPTED = [("frozen", "dora"), ("lora", "frozen"), ("dora", "frozen"), ("lora", "lora"), ("dora", "dora")]
ADAPTED += [("full", "lora"), ("full", "dora"), ("lora", "full"), ("dora", "full")]


def trained_parts(model: torch.nn.Module) -> set[str]:
    names = [name.removeprefix("base_model.model.") for name, p in model.named_parameters() if p.requires_grad]
    return {name.removeprefix("model.").partition(".")[0] for name in names}


@pytest.mark.parametrize(("vision", "text"), ADAPTED)
def test_every_mixture_trains_saves_loads_and_merges_at_no_cost(vision, text, tmp_path):
    model = new_model()
    modules = [(name, type(module)) for name, module in model.named_modules()]
    size, before = sum(p.numel() for p in model.parameters()), logits(model)
    model.save_pretrained(tmp_path / "base")
    adapted = trained(model, vision=vision, text=text)
    own = {"vision_tower": vision, "language_model": text}
    assert trained_parts(adapted) == {"connector", *(part for part, mode in own.items() if mode != "frozen")}
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    expected = logits(adapted)
    assert (expected - before).abs().max() > 1e-2
    adapted.save_pretrained(tmp_path / "adapter")

    merged = load_lora(SmolVLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter").merge_and_unload()
    for one in (merged, adapted.merge_and_unload()):
        torch.testing.assert_close(logits(one), expected, rtol=1e-5, atol=1e-5)
        assert [(name, type(module)) for name, module in one.named_modules()] == modules
        assert sum(p.numel() for p in one.parameters()) == size
        assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
        assert one.config.freeze_vision == one.model.vision_tower.frozen == (vision != "full")


@pytest.mark.parametrize("vision", ["frozen", "full"])
@pytest.mark.parametrize("text", ["frozen", "full"])
def test_without_an_adapter_the_model_itself_comes_back(vision, text, tmp_path):
    model = new_model()
    assert adapt_backbones(model, vision=vision, text=text) is model
    own = {"vision_tower": vision, "language_model": text}
    assert trained_parts(model) == {"connector", *(part for part, mode in own.items() if mode == "full")}
    assert model.train().model.vision_tower.training == (vision == "full")
    model.save_pretrained(tmp_path)
    assert SmolVLM.from_pretrained(tmp_path).model.vision_tower.is_trained == (vision == "full")


@pytest.mark.parametrize("vision", ["lora", "full"])
def test_training_goes_on_with_the_vision_tower_in_the_same_mode(vision, tmp_path):
    model = new_model()
    trained(copy.deepcopy(model), vision=vision).save_pretrained(tmp_path)
    adapted = load_lora(model, tmp_path, is_trainable=True).train()
    assert adapted.get_base_model().model.vision_tower.backbone.training == (vision == "full")
    assert trained_parts(adapted) == {"connector", "vision_tower", "language_model"}


@pytest.mark.parametrize(("connector", "text"), [("qformer", "lora"), ("perceiver", "dora"), ("mlp", "full")])
def test_the_blocks_of_cross_attention_are_trained_and_the_q_formers_only_once(connector, text, tmp_path):
    heads = {"num_cross_attention_heads": 4, "cross_layer_interval": 1}
    model = SmolVLM(tiny.smolvlm_config(connector=connector, fusion="cross_attention", **heads)).eval()
    processor = tiny.crops_processor(model.config)
    batch = processor.apply_chat_template(tiny.conversations(), return_labels=True)
    model.save_pretrained(tmp_path / "base")
    adapted = adapt_backbones(model, text=text, rank=2)
    assert trained_parts(adapted) == {"connector", "cross_attention", "language_model"}
    assert not any(name.count("modules_to_save") > 1 for name, _ in adapted.named_parameters())
    for parameter in (p for p in adapted.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.2)
    expected = adapted.eval()(**batch).logits
    adapted.save_pretrained(tmp_path / "trained")
    base = SmolVLM.from_pretrained(tmp_path / "base")
    assert (base(**batch).logits - expected).abs().max() > 0.1
    if text == "full":
        restored = SmolVLM.from_pretrained(tmp_path / "trained")
    else:
        restored = load_lora(base, tmp_path / "trained").merge_and_unload()
    torch.testing.assert_close(restored(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(restored.model.cross_attention.blocks[1].attention_gate.abs() > 0, torch.tensor([True]))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_gpt2s_transposed_layers_and_a_vits_are_adapted_together(kind, recwarn, tmp_path):
    model = SmolVLM(tiny.smolvlm_config(text_config=tiny.text_config(initializer_range=0.2))).eval()
    base = copy.deepcopy(model)
    adapted = trained(model, vision=kind, text=kind)
    adapted.save_pretrained(tmp_path)
    merged = load_lora(base, tmp_path).merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-5, atol=1e-5)
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]


def test_a_pooling_head_is_not_adapted():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = SiglipVisionConfig(**sizes, image_size=32, patch_size=16)
    adapted = adapt_backbones(SmolVLM(tiny.smolvlm_config(vision_config=vision)), vision="lora", text="frozen", rank=2)
    names = [name for name, _ in adapted.named_parameters() if ".lora_A." in name]
    assert len(names) == 6
    assert all("vision_tower.backbone.encoder.layers.0." in name for name in names)


def test_modes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`vision` must be one of .*, but got 'lroa'. Did you mean 'lora'\?"):
        adapt_backbones(new_model(), vision="lroa")
    with pytest.raises(ValueError, match=r"`text` must be one of 'frozen', 'lora', 'dora', 'full', but got 'all'."):
        adapt_backbones(new_model(), text="all")
    with pytest.raises(ValueError, match="must use the same kind of adapter, but got 'dora' and 'lora'"):
        adapt_backbones(new_model(), vision="dora", text="lora")
    convolutions = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    with pytest.raises(
        ValueError, match=r"vision_tower` must have linear layers .*, but ResNetModel does not. Choose 'full'"
    ):
        adapt_backbones(SmolVLM(tiny.smolvlm_config(vision_config=convolutions)), vision="lora")


class Doubled(torch.nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def test_dora_refuses_what_peft_would_silently_make_nonsense_of():
    model = new_model()
    attention = model.model.language_model.layers[1].self_attn
    with torch.no_grad():
        attention.q_proj.weight[3] = 0
    with pytest.raises(ValueError, match=r"DoRA does not support .*\.layers\.1\.self_attn\.q_proj, .* are zero"):
        adapt_backbones(model, text="dora")
    assert logits(adapt_backbones(model, rank=2).eval()).isfinite().all()
    model = new_model()
    model.model.language_model.layers[0].mlp.up_proj = Doubled(16, 32, bias=False)
    with pytest.raises(ValueError, match=r"up_proj, because Doubled overrides the forward .*\. Choose 'lora'"):
        adapt_backbones(model, text="dora")
