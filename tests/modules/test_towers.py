import copy

import pytest
import timm
import torch
from safetensors.torch import load_file
from tests import tiny
from transformers import (
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2WithRegistersConfig,
    DistilBertConfig,
    GPT2LMHeadModel,
    GPTNeoConfig,
    LlamaConfig,
    OPTConfig,
    ResNetConfig,
    RobertaConfig,
    SiglipVisionConfig,
    T5Config,
    TimmWrapperConfig,
)

from vlmkit import DualEncoderConfig, DualEncoderModel
from vlmkit.modules import TextTower, TokenEmbeddings, VisionTower
from vlmkit.modules.towers import get_text_config, get_vision_config

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 16}
VISION = {
    "vit": tiny.vision_config(),
    "clip": CLIPVisionConfig(**IMAGE),
    "siglip": SiglipVisionConfig(**IMAGE),
    "dinov2-registers": Dinov2WithRegistersConfig(**IMAGE, num_register_tokens=3),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "timm-vit": TimmWrapperConfig(
        architecture="vit_tiny_patch16_224", model_args={"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}
    ),
    "timm-cnn": TimmWrapperConfig(architecture="resnet10t"),
    "timm-mobilenet": TimmWrapperConfig(architecture="mobilenetv3_small_050"),
    "timm-swin": TimmWrapperConfig(
        architecture="swin_tiny_patch4_window7_224",
        model_args={"img_size": 56, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)},
    ),
}
TEXT = {
    "gpt2": tiny.text_config(),
    "gpt-neo": GPTNeoConfig(hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]),
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "distilbert": DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16),
    "opt": OPTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16),
    "llama": LlamaConfig(**SIZES),
    "clip": CLIPTextConfig(**SIZES),
    "t5": T5Config(d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8),
}
HAS_POSITIONS = {"gpt2", "gpt-neo", "bert", "roberta", "distilbert", "opt", "clip"}


def pixels(name: str) -> torch.Tensor:
    side = 56 if name == "timm-swin" else 32
    return torch.rand(2, 3, side, side)


@pytest.mark.parametrize("name", VISION)
def test_any_vision_backbone_gives_tokens_and_a_pooled_vector(name):
    tower = VisionTower(VISION[name]).eval()
    outputs = tower(pixels(name))
    assert outputs.last_hidden_state.ndim == 3
    assert outputs.last_hidden_state.shape[2] == tower.hidden_size
    assert outputs.pooler_output.shape == (2, tower.pooled_size)
    assert outputs.pooler_output.isfinite().all()


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("vit", 1), ("clip", 1), ("siglip", 0), ("dinov2-registers", 4), ("resnet", 0), ("timm-vit", 1)],
)
def test_mean_pooling_leaves_prefix_tokens_out(name, prefix):
    tower = VisionTower(VISION[name], pooling="mean").eval()
    outputs = tower(pixels(name))
    assert tower.num_prefix_tokens == prefix
    torch.testing.assert_close(outputs.pooler_output, outputs.last_hidden_state[:, prefix:].mean(1))


def test_auto_is_the_class_token_of_a_vit_and_the_own_head_of_a_cnn():
    vit = VisionTower(VISION["vit"]).eval()
    outputs = vit(pixels("vit"))
    assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])
    assert not [name for name, _ in vit.named_parameters() if "pooler" in name]  # no dead tanh layer

    cnn = VisionTower(VISION["timm-mobilenet"]).eval()
    assert cnn.pooled_size != cnn.hidden_size
    image = pixels("cnn")
    expected = cnn.backbone.timm_model(image)
    torch.testing.assert_close(cnn(image).pooler_output, expected)


@pytest.mark.parametrize("name", ["timm-cnn", "timm-vit"])
def test_a_new_timm_backbone_starts_as_timm_starts_it(name):
    config = copy.deepcopy(VISION[name])
    torch.manual_seed(3)
    fresh = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
    model = DualEncoderModel(DualEncoderConfig(vision_config=config, text_config=tiny.text_config()))
    ours = model.vision_tower.backbone.timm_model
    for key, expected in fresh.state_dict().items():
        spread = expected.float().std(correction=0) if expected.numel() > 1 else expected.float().abs()
        actual = ours.state_dict()[key].float()
        actual = actual.std(correction=0) if expected.numel() > 1 else actual.abs()
        torch.testing.assert_close(actual, spread, rtol=0.2, atol=2e-3, msg=lambda text, k=key: f"{k}: {text}")
    images = torch.randn(8, 3, *pixels(name).shape[2:])
    pooled = model.eval().vision_tower(images).pooler_output
    assert pooled.std(dim=0).mean() > 1e-3  # different images still differ


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("vit", 1), ("clip", 1), ("siglip", 0), ("dinov2-registers", 4), ("resnet", 0), ("timm-vit", 1), ("timm-cnn", 0)],
)
def test_prefix_tokens_can_be_left_out(name, prefix):
    tower = VisionTower(VISION[name], pooling="mean").eval()
    images = pixels(name)
    every = tower(images)
    tower.prefix_tokens = False
    patches = tower(images)
    assert torch.equal(patches.last_hidden_state, every.last_hidden_state[:, prefix:])
    assert torch.equal(patches.pooler_output, every.pooler_output)


@pytest.mark.parametrize("prefix_tokens", [True, False])
def test_tokens_of_several_layers_come_one_layer_after_the_other(prefix_tokens):
    tower = VisionTower(tiny.vision_config(), prefix_tokens=prefix_tokens, layers=(0, -1, 1)).eval()
    images = pixels("vit")
    outputs = tower(images)
    states = tower.backbone(images, output_hidden_states=True).hidden_states
    first = 0 if prefix_tokens else 1
    expected = torch.cat([states[layer][:, first:] for layer in (0, 2, 1)], dim=1)
    assert torch.equal(outputs.last_hidden_state, expected)
    assert outputs.last_hidden_state.shape == (2, 3 * (5 - first), 16)
    assert torch.equal(outputs.pooler_output, VisionTower.forward(tower, images).pooler_output)


def test_the_last_layer_of_clip_is_its_output():
    tower = VisionTower(VISION["clip"], layers=[-1]).eval()
    images = pixels("clip")
    expected = tower.backbone(images).last_hidden_state
    assert torch.equal(tower(images).last_hidden_state, expected)


@pytest.mark.parametrize("prefix_tokens", [True, False])
def test_layers_of_timms_vits_are_maps_without_prefix_tokens(prefix_tokens):
    tower = VisionTower(VISION["timm-vit"], prefix_tokens=prefix_tokens, layers=[0, -1]).eval()
    images = pixels("timm-vit")
    states = tower.backbone(images, output_hidden_states=True).hidden_states
    expected = torch.cat([states[layer].flatten(2).transpose(1, 2) for layer in (0, -1)], dim=1)
    assert torch.equal(tower(images).last_hidden_state, expected)


@pytest.mark.parametrize("layer", [3, -4, 12])
def test_a_layer_that_the_backbone_does_not_have_is_rejected(layer):
    with pytest.raises(ValueError, match=f"must be from -3 to 2 for vit, .* but got {layer}"):
        VisionTower(tiny.vision_config(), layers=[0, layer])
    of_timm = VisionTower(VISION["timm-vit"], layers=[40 + layer])  # whose configuration tells no depth
    with pytest.raises(ValueError, match=f"Vision layers must be from .* but got {40 + layer}"):
        of_timm(pixels("timm-vit"))


@pytest.mark.parametrize("name", ["resnet", "timm-cnn", "timm-swin"])
def test_layers_of_a_feature_pyramid_are_rejected(name):
    tower = VisionTower(VISION[name], layers=[0, -1])
    with pytest.raises(
        ValueError,
        match=r"All vision layers must have the same shape .* but layer 0 of \w+ has",
    ):
        tower(pixels(name))


def test_pooling_that_the_backbone_does_not_have_is_rejected():
    with pytest.raises(
        ValueError, match="must be 'mean' or 'pooler' for resnet10t, which has no class token, but got 'cls'"
    ):
        VisionTower(VISION["timm-cnn"], pooling="cls")
    with pytest.raises(ValueError, match="must be 'cls' for vit, which returns no pooled output, but got 'pooler'"):
        VisionTower(VISION["vit"], pooling="pooler")(pixels("vit"))
    with pytest.raises(ValueError, match=r"`vision_pooling` must be one of .*, but got 'max'"):
        VisionTower(VISION["vit"], pooling="max")


def test_a_text_model_is_no_vision_tower():
    with pytest.raises(ValueError, match="must take `pixel_values`, but gpt2 takes `input_ids`"):
        VisionTower(tiny.text_config())


def test_a_config_of_another_kind_of_model_is_rejected():
    with pytest.raises(ValueError, match=r"vlmkit_dual_encoder.*AutoModel"):
        VisionTower(type("Odd", (tiny.vision_config().__class__,), {"model_type": "vlmkit_dual_encoder"})())


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("features", ["encoder", "token_embeddings"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_side_and_batch_do_not_matter(name, features, pooling):
    config = copy.deepcopy(TEXT[name])  # a model writes into it
    tower = TextTower(config, features=features, pooling=pooling).eval()
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
    tokens = torch.randint(5, 60, (4,))
    right = torch.cat([tokens, torch.full((3,), pad)])[None]
    left = torch.cat([torch.full((3,), pad), tokens])[None]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    alone = tower(tokens[None])
    padded_right, padded_left = tower(right, mask), tower(left, mask.flip(1))
    assert alone.pooler_output.shape == (1, tower.hidden_size)
    torch.testing.assert_close(padded_right.pooler_output, alone.pooler_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded_left.pooler_output, alone.pooler_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded_left.last_hidden_state[:, 3:], alone.last_hidden_state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TEXT)
def test_token_embeddings_are_the_tables_of_the_checkpoint(name, tmp_path):
    model = AutoModel.from_config(TEXT[name])
    model.save_pretrained(tmp_path)
    tables = TokenEmbeddings.from_text_pretrained(tmp_path, TEXT[name])
    assert torch.equal(tables.token_embeddings.weight, model.get_input_embeddings().weight)
    assert (tables.position_embeddings is not None) == (name in HAS_POSITIONS)
    if tables.position_embeddings is not None:
        saved = load_file(tmp_path / "model.safetensors").values()
        assert any(torch.equal(tables.position_embeddings.weight, tensor) for tensor in saved)
    assert tables._keys_to_ignore_on_load_unexpected == {".*"}
    assert not TokenEmbeddings(TEXT[name])._keys_to_ignore_on_load_unexpected


@pytest.mark.parametrize(("name", "first"), [("gpt2", 0), ("roberta", 2), ("opt", 2)])
def test_positions_start_where_the_model_starts_them(name, first):
    tables = TokenEmbeddings(TEXT[name])
    ids = torch.tensor([[7, 8, 9]])
    expected = tables.token_embeddings(ids) + tables.position_embeddings.weight[first : first + 3]
    torch.testing.assert_close(tables(ids).last_hidden_state, expected)


def test_only_the_tables_of_gpt2_are_built():
    with torch.device("meta"):
        parameters = TextTower(tiny.text_config(n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50257))
        tables = TextTower(parameters.backbone.config, features="token_embeddings")
    assert sum(p.numel() for p in parameters.parameters()) == 124_439_808
    assert sum(p.numel() for p in tables.parameters()) == 39_383_808


def test_loads_the_tables_of_a_language_model_with_a_head(tmp_path):
    model = GPT2LMHeadModel(tiny.text_config())
    model.save_pretrained(tmp_path)  # its keys start with "transformer."
    tables = TokenEmbeddings.from_text_pretrained(tmp_path, tiny.text_config())
    assert torch.equal(tables.token_embeddings.weight, model.transformer.wte.weight)


def test_a_checkpoint_without_tables_is_rejected(tmp_path):
    AutoModel.from_config(tiny.vision_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must contain .* but .*token_embeddings.* is missing"):
        TokenEmbeddings.from_text_pretrained(tmp_path, tiny.text_config())


def test_too_many_tokens_are_rejected():
    with pytest.raises(ValueError, match=r"must have at most 64 tokens, .* but got 65"):
        TextTower(tiny.text_config(), features="token_embeddings")(torch.ones(1, 65, dtype=torch.long))


def test_one_side_of_a_two_tower_checkpoint(tmp_path):
    vision, text = CLIPVisionConfig(**IMAGE), CLIPTextConfig(**SIZES, vocab_size=50)
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text))
    clip.save_pretrained(tmp_path)
    backbone = VisionTower.load_backbone(tmp_path, get_vision_config(clip.config))
    pixel_values = torch.rand(1, 3, 32, 32)
    expected = clip.eval().vision_model(pixel_values).pooler_output
    torch.testing.assert_close(backbone.eval()(pixel_values).pooler_output, expected)
    backbone = TextTower.load_backbone(tmp_path, get_text_config(clip.config))
    ids = torch.tensor([[3, 4, 5]])
    expected = clip.text_model(ids).last_hidden_state
    torch.testing.assert_close(backbone.eval()(ids).last_hidden_state, expected)


def test_a_frozen_tower_takes_no_gradient_and_keeps_its_statistics():
    tower = VisionTower(VISION["timm-cnn"], frozen=True)
    before = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    tower.train()
    tower(pixels("cnn"))
    assert not tower.backbone.training
    assert not any(p.requires_grad for p in tower.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in tower.named_buffers())


def test_unknown_options_are_rejected():
    with pytest.raises(ValueError, match=r"`text_features` must be one of .*, but got 'embeddings'"):
        TextTower(tiny.text_config(), features="embeddings")
    with pytest.raises(ValueError, match=r"`text_pooling` must be one of .*, but got 'max'"):
        TextTower(tiny.text_config(), pooling="max")
