import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tests import tiny
from transformers import AutoConfig, TimmWrapperConfig, ViTConfig

from vlmkit import PairedCifarAligner, PairedCifarAlignerConfig
from vlmkit.cifar100_classes import CIFAR100_CLASSES


def on_meta(config: PairedCifarAlignerConfig) -> PairedCifarAligner:
    with torch.device("meta"):
        return PairedCifarAligner(config)


def test_defaults_are_the_reports():
    config = PairedCifarAlignerConfig()
    assert config.class_names == list(CIFAR100_CLASSES)
    assert config.num_classes == 100
    assert config.caption_template == "the photo on the left is {a} and the photo on the right is {b}"
    assert (config.loss, config.temperature, config.learn_temperature) == ("in_batch", 0.07, False)
    assert (config.vision_input, config.caption_normalization, config.text_embed_dim) == ("pair", "none", 512)
    assert config.label_smoothing == config.swap_loss_weight == config.class_loss_weight == 0
    assert config.text_encoder is None


def test_the_enhanced_encoder():
    config = PairedCifarAlignerConfig.enhanced()
    vit = config.vision_config
    assert isinstance(vit, ViTConfig)
    assert (vit.num_hidden_layers, vit.num_attention_heads, vit.intermediate_size) == (6, 8, 2048)
    assert (vit.hidden_size, vit.hidden_act, tuple(vit.image_size), vit.patch_size) == (512, "gelu", (32, 64), 8)
    assert on_meta(config).num_parameters() == 19_031_552
    assert config.to_dict() == PairedCifarAlignerConfig().to_dict()


def test_the_baseline():
    config = PairedCifarAlignerConfig.baseline(temperature=0.1)
    vit = config.vision_config
    assert (vit.num_hidden_layers, vit.num_attention_heads, vit.intermediate_size) == (1, 1, 1024)
    assert (vit.hidden_size, vit.hidden_act, tuple(vit.image_size), vit.patch_size) == (512, "relu", (32, 64), 8)
    assert config.temperature == 0.1
    assert on_meta(config).num_parameters() == 2_220_032


def test_there_is_a_projection_only_where_the_widths_differ():
    same, other = (on_meta(PairedCifarAlignerConfig.baseline(text_embed_dim=width)) for width in (512, 384))
    assert not list(same.vision_projection.parameters())
    assert other.vision_projection.weight.shape == (384, 512)
    assert other.num_parameters() == same.num_parameters() + 384 * (512 + 1)


def test_two_halves_give_two_vectors_and_their_product():
    vision = tiny.vision_config(image_size=16, patch_size=8)
    both = {"vision_config": vision, "vision_input": "halves"}
    assert on_meta(tiny.paired_cifar_config(**both)).vision_projection.weight.shape == (12, 48)
    same = on_meta(tiny.paired_cifar_config(**both, text_embed_dim=48))
    assert not list(same.vision_projection.parameters())


def test_patches_of_4_pixels():
    for config in (PairedCifarAlignerConfig.baseline(patch_size=4), PairedCifarAlignerConfig.enhanced(patch_size=4)):
        positions = on_meta(config).vision_tower.backbone.embeddings.position_embeddings
        assert positions.shape == (1, 8 * 16 + 1, 512)


@pytest.mark.parametrize("name", ["baseline", "enhanced"])
def test_the_reports_vits_on_single_images(name):
    config = getattr(PairedCifarAlignerConfig, name)(vision_input="halves")
    assert tuple(config.vision_config.image_size) == (32, 32)
    assert on_meta(config).vision_projection.weight.shape == (512, 3 * 512)


@pytest.mark.parametrize(
    ("template", "slots"),
    [
        ("a photo of two things", r"\[\]"),
        ("{a} beside something", r"\['a'\]"),
        ("{a} beside {a}", r"\['a', 'a'\]"),
        ("{a} beside {b}, and {b} again", r"\['a', 'b', 'b'\]"),
        ("{left} beside {right}", r"\['left', 'right'\]"),
        ("{} beside {}", r"\['', ''\]"),
        ("{a} beside {b} and {c}", r"\['a', 'b', 'c'\]"),
        ("{{a}} beside {b}", r"\['b'\]"),
    ],
)
def test_a_template_without_its_two_slots_is_refused(template, slots):
    with pytest.raises(ValueError, match=f"`caption_template` must have .* with the placeholders {slots}"):
        tiny.paired_cifar_config(caption_template=template)


@pytest.mark.parametrize("template", ["{a} beside {b", "{a} beside b}", "{a} {b} {"])
def test_a_template_with_broken_braces_is_refused(template):
    with pytest.raises(ValueError, match="`caption_template` must be a valid format string, but got "):
        tiny.paired_cifar_config(caption_template=template)


def test_a_template_may_name_the_right_image_first():
    model = PairedCifarAligner(tiny.paired_cifar_config(caption_template="{b} on the right of {a}"))
    assert model.captions[1] == "cat on the right of dog"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "`class_names` must contain at least 2 names, but got 0"),
        (["dog"], "`class_names` must contain at least 2 names, but got 1"),
        (["dog", "cat", "dog"], "must be unique, but 'dog' appears more than once"),
        (["oak_tree", "oak tree"], "must be unique, but 'oak_tree' appears more than once"),
        (["oak ", "oak"], "must be unique, but 'oak ' appears more than once"),
        (["dog", ""], "must not be empty or contain braces, but got ''"),
        (["dog", " "], "must not be empty or contain braces, but got ' '"),
        (["dog", "_"], "must not be empty or contain braces, but got '_'"),
        (["dog", "{a}"], "must not be empty or contain braces, but got '{a}'"),
        (["dog", "c}at"], "must not be empty or contain braces, but got 'c}at'"),
    ],
)
def test_class_names_that_make_no_captions_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        tiny.paired_cifar_config(class_names=names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0}, "`temperature` must be positive, but got 0"),
        ({"temperature": -0.07}, "`temperature` must be positive, but got -0.07"),
        (
            {"temperature": 0.005, "learn_temperature": True},
            "`temperature` must be at least 0.01 if it is learned, but got 0.005",
        ),
        ({"text_embed_dim": 0}, "`text_embed_dim` must be at least 1, but got 0"),
        ({"label_smoothing": -0.1, "loss": "full_bank"}, "must be at least 0 and less than 1, but got -0.1"),
        ({"label_smoothing": 1.0, "loss": "full_bank"}, "must be at least 0 and less than 1, but got 1.0"),
        ({"label_smoothing": 0.1}, "`label_smoothing` must be 0 .* but got 0.1. Set `loss='full_bank'`"),
        ({"swap_loss_weight": -1}, "`swap_loss_weight` must be at least 0, but got -1"),
        ({"swap_margin": -0.5}, "`swap_margin` must be at least 0, but got -0.5"),
        ({"class_loss_weight": -2.0}, "`class_loss_weight` must be at least 0, but got -2.0"),
    ],
)
def test_numbers_out_of_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny.paired_cifar_config(**fields)


def test_a_fixed_temperature_may_be_low():
    assert tiny.paired_cifar_config(temperature=0.005).temperature == 0.005


@pytest.mark.parametrize(
    ("vision_input", "image_size", "message"),
    [
        ("pair", 32, r"\(height, 2 \* height\) with `vision_input='pair'`, such as \(32, 64\), but got \(32, 32\)"),
        ("pair", (64, 32), r"`vision_input='pair'`, such as \(64, 128\), but got \(64, 32\)"),
        (
            "halves",
            (16, 32),
            r"`vision_input='halves'`, such as \(16, 16\), but got \(16, 32\)",
        ),
    ],
)
def test_a_vit_whose_size_is_no_pair_is_refused(vision_input, image_size, message):
    vision = tiny.vision_config(image_size=image_size, patch_size=8)
    with pytest.raises(ValueError, match=f"`vision_config.image_size` must be .*{message}"):
        tiny.paired_cifar_config(vision_config=vision, vision_input=vision_input)


@pytest.mark.parametrize("patch_size", [5, (8, 5), (5, 8)])
def test_a_vit_whose_size_is_no_multiple_of_its_patch_is_refused(patch_size):
    vision = tiny.vision_config(image_size=(16, 32), patch_size=patch_size)
    with pytest.raises(ValueError, match=r"must be a multiple of `patch_size` \(.*5.*, but got \(16, 32\)"):
        tiny.paired_cifar_config(vision_config=vision)


def test_halves_are_squares_of_any_vit():
    vision = tiny.vision_config(image_size=16, patch_size=8)
    config = tiny.paired_cifar_config(vision_config=vision, vision_input="halves")
    assert config.vision_config.image_size == 16


def test_other_backbones_have_no_fixed_size():
    config = tiny.paired_cifar_config(vision_config=TimmWrapperConfig(architecture="resnet10t"))
    assert config.vision_config.architecture == "resnet10t"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vision_input", "left"),
        ("vision_pooling", "max"),
        ("caption_template", 7),
        ("text_embed_dim", "512"),
        ("caption_normalization", "standard"),
        ("loss", "triplet"),
        ("temperature", "0.07"),
        ("learn_temperature", "yes"),
        ("label_smoothing", "0.1"),
    ],
)
def test_a_wrong_type_or_choice_is_refused(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'.*\n.*{value}"):
        PairedCifarAlignerConfig(**{field: value})


@pytest.mark.parametrize("names", ["dog", [7, 8]])
def test_class_names_that_are_no_texts_are_refused(names):
    with pytest.raises(StrictDataclassFieldValidationError, match="'class_names'"):
        tiny.paired_cifar_config(class_names=names)


def test_it_is_saved_whole(tmp_path):
    config = tiny.paired_cifar_config(loss="full_bank", label_smoothing=0.1, text_encoder="some encoder")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.loss, loaded.label_smoothing, loaded.text_encoder) == ("full_bank", 0.1, "some encoder")
    assert loaded.class_names == tiny.CLASSES
    assert isinstance(loaded.vision_config, ViTConfig)
    assert tuple(loaded.vision_config.image_size) == (16, 32)
