import copy

import pytest
import timm
import torch
from packaging.version import Version
from tests import tiny
from transformers import (
    CLIPVisionConfig,
    Dinov2WithRegistersConfig,
    ResNetConfig,
    SamVisionConfig,
    SiglipVisionConfig,
    SwinConfig,
    TimmWrapperConfig,
)

from vlmkit.modules import VisionTower
from vlmkit.modules.image_sizes import image_sizes

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 16}
SMALL_VIT = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2}
SMALL_SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2)}
SMALL_SWIN_OF_TRANSFORMERS = {
    "image_size": 32,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [2, 2],
}
SMALL_RESNET = {"channels": (8, 8, 16, 16), "stem_width": 8, "zero_init_last": False}


def timm_config(architecture: str, **model_args) -> TimmWrapperConfig:
    return TimmWrapperConfig(architecture=architecture, model_args=model_args)


ANY_SIZE = {
    "vit": tiny.vision_config(initializer_range=0.5),
    "clip": CLIPVisionConfig(**IMAGE),
    "siglip": SiglipVisionConfig(**IMAGE),
    "dinov2-registers": Dinov2WithRegistersConfig(**IMAGE, num_register_tokens=3),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "timm-vit": timm_config("vit_tiny_patch16_224", **SMALL_VIT, dynamic_img_size=True),
    "timm-cnn": timm_config("resnet10t", **SMALL_RESNET),
    "timm-swin": timm_config("swin_tiny_patch4_window7_224", **SMALL_SWIN, dynamic_img_size=True),
}
NEEDS_SWIN_OF_ANY_SIZE = pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.31"), reason="timm's Swin takes images of any size since 1.0.31"
)
NAMES = [pytest.param(name, marks=NEEDS_SWIN_OF_ANY_SIZE if name == "timm-swin" else ()) for name in ANY_SIZE]
PATCH = {"resnet": 8, "timm-cnn": 32, "timm-swin": 8}  # 16 of all others
IN_PIXELS = [(64, 96), (32, 96), (96, 32), (32, 96), (32, 32)]
CANVAS = (96, 128)  # larger than any of them, as if others of the same call had been


def tower_of(name: str, **kwargs) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(copy.deepcopy(ANY_SIZE[name]), **kwargs).eval()


def padded(sizes: list[tuple[int, int]], canvas: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise everywhere: what lies in the padding must not matter."""
    pixel_values = torch.rand(len(sizes), 3, *canvas, generator=torch.Generator().manual_seed(0))
    pixel_attention_mask = torch.zeros(len(sizes), *canvas, dtype=torch.int64)
    for mask, (height, width) in zip(pixel_attention_mask, sizes, strict=True):
        mask[:height, :width] = 1
    return pixel_values, pixel_attention_mask


@pytest.mark.parametrize("prefix_tokens", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_mask_of_ones_changes_nothing_at_the_pretrained_size(name, prefix_tokens):
    tower = tower_of(name, prefix_tokens=prefix_tokens)
    pixel_values, pixel_attention_mask = padded([(32, 32)] * 3, (32, 32))
    plain, masked = tower(pixel_values), tower(pixel_values, pixel_attention_mask)
    assert torch.equal(masked.last_hidden_state, plain.last_hidden_state)
    assert torch.equal(masked.pooler_output, plain.pooler_output)
    assert plain.patch_attention_mask is None
    side = 32 // PATCH.get(name, 16)
    assert masked.patch_attention_mask.shape == (3, side, side)
    assert masked.patch_attention_mask.dtype == torch.bool
    assert masked.patch_attention_mask.all()


@pytest.mark.parametrize("prefix_tokens", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_several_sizes_equal_each_alone(name, prefix_tokens):
    tower = tower_of(name, prefix_tokens=prefix_tokens, pooling="mean")
    pixel_values, pixel_attention_mask = padded(IN_PIXELS, CANVAS)
    outputs = tower(pixel_values, pixel_attention_mask)
    num_prefix = tower.num_prefix_tokens if prefix_tokens else 0
    patch = PATCH.get(name, 16)
    assert outputs.patch_attention_mask.shape == (5, CANVAS[0] // patch, CANVAS[1] // patch)
    for row, (height, width) in enumerate(IN_PIXELS):
        image = pixel_values[row : row + 1, :, :height, :width]
        alone = tower(image, torch.ones(1, height, width)).last_hidden_state[0]
        expected = torch.zeros(CANVAS[0] // patch, CANVAS[1] // patch, alone.shape[1])
        expected[: height // patch, : width // patch] = alone[num_prefix:].view(height // patch, width // patch, -1)
        torch.testing.assert_close(outputs.last_hidden_state[row, num_prefix:], expected.flatten(0, 1))
        torch.testing.assert_close(outputs.last_hidden_state[row, :num_prefix], alone[:num_prefix])
        torch.testing.assert_close(outputs.pooler_output[row], alone[num_prefix:].mean(dim=0))
        assert outputs.patch_attention_mask[row].sum() == height * width // patch**2
        assert outputs.patch_attention_mask[row, : height // patch, : width // patch].all()


@pytest.mark.parametrize("name", ["vit", "clip", "siglip"])
def test_position_embeddings_are_interpolated_to_the_images_own_grid(name):
    tower = tower_of(name)
    pixel_values, pixel_attention_mask = padded([(64, 32)], (64, 96))
    expected = tower.backbone(pixel_values[..., :32], interpolate_pos_encoding=True).last_hidden_state
    tokens, mask = (
        tower(pixel_values, pixel_attention_mask)["last_hidden_state"],
        tower(pixel_values, pixel_attention_mask).patch_attention_mask,
    )
    first = tower.num_prefix_tokens
    assert torch.equal(tokens[:, first:][mask.flatten(1)], expected[0, first:])
    assert mask[0].tolist() == 4 * [[True, True, False, False, False, False]]


def test_only_a_mask_brings_a_new_keyword_to_the_backbone():
    tower = tower_of("vit")
    seen = []
    tower.backbone.register_forward_pre_hook(lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    at_own_size, mask = padded([(32, 32)], (32, 32))
    tower(at_own_size)
    tower(at_own_size, mask)
    tower(*padded([(64, 32)], (64, 32)))
    tower(*padded([(64, 32), (32, 32), (64, 32)], (64, 64)))
    plain, interpolated = {"pixel_values", "return_dict"}, {"pixel_values", "return_dict", "interpolate_pos_encoding"}
    assert seen == [plain, plain, interpolated, interpolated, plain]  # images of one size run together


def test_hidden_states_are_those_of_images_of_one_size():
    tower = tower_of("vit")
    pixel_values, pixel_attention_mask = padded([(32, 32)], (32, 32))
    assert len(tower(pixel_values, output_hidden_states=True).hidden_states) == 3
    outputs = tower(pixel_values, pixel_attention_mask, output_hidden_states=True)
    assert len(outputs.hidden_states) == 3
    assert tower(*padded([(32, 32), (16, 32)], (32, 32)), output_hidden_states=True).hidden_states is None
    assert outputs.attentions is None


def test_gradients_reach_the_images_and_every_parameter_but_not_the_padding():
    tower = tower_of("vit").train()
    pixel_values, pixel_attention_mask = padded([(64, 32), (32, 32), (32, 64)], (64, 64))
    pixel_values.requires_grad_()
    tower(pixel_values, pixel_attention_mask).last_hidden_state.square().sum().backward()
    is_image = pixel_attention_mask.bool()[:, None].expand_as(pixel_values)
    assert (pixel_values.grad[is_image] != 0).all()
    assert not pixel_values.grad[~is_image].any()
    assert all(parameter.grad.any() for parameter in tower.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", ["vit", "clip", "timm-vit", "timm-cnn"])
def test_bfloat16_is_close_to_float32(name):
    tower = tower_of(name, pooling="mean")
    pixel_values, pixel_attention_mask = padded(IN_PIXELS, CANVAS)
    expected = tower(pixel_values, pixel_attention_mask)
    actual = tower.to(torch.bfloat16)(pixel_values.to(torch.bfloat16), pixel_attention_mask)
    assert actual.last_hidden_state.dtype == torch.bfloat16
    assert torch.equal(actual.patch_attention_mask, expected.patch_attention_mask)
    difference = (actual.last_hidden_state.float() - expected.last_hidden_state).abs().mean()
    assert difference < 0.05 * expected.last_hidden_state.abs().mean()


def test_the_rest_of_a_pretrained_size_is_dropped_as_the_backbone_drops_it():
    tower = VisionTower(SiglipVisionConfig(**{**IMAGE, "image_size": 40})).eval()  # as 384 is no multiple of 14
    pixel_values, pixel_attention_mask = padded([(40, 40), (32, 16)], (40, 40))
    outputs = tower(pixel_values, pixel_attention_mask)
    torch.testing.assert_close(outputs.last_hidden_state[0], tower(pixel_values[:1]).last_hidden_state[0])
    assert outputs.patch_attention_mask.tolist() == [[[True, True], [True, True]], [[True, False], [True, False]]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_sizes_follow_from_the_mask(dtype):
    mask = padded([(3, 4), (1, 5), (6, 1), (6, 5)], (6, 5))[1]
    assert image_sizes(mask.to(dtype)) == [(3, 4), (1, 5), (6, 1), (6, 5)]


@pytest.mark.parametrize(
    "faulty",
    [
        [[0, 0, 0], [0, 0, 0]],  # empty
        [[1, 1, 0], [1, 0, 0]],  # no rectangle
        [[0, 1, 1], [0, 1, 1]],  # not on the left
        [[0, 0, 0], [1, 1, 1]],  # not at the top
        [[1, 0, 1], [1, 0, 1]],  # in two parts
    ],
)
def test_a_mask_that_is_not_a_rectangle_at_the_top_left_is_rejected(faulty):
    with pytest.raises(
        ValueError, match=r"must be a rectangle in the top left corner of each image, but is not for image 1"
    ):
        image_sizes(torch.tensor([[[1, 1, 1], [1, 1, 1]], faulty]))


@pytest.mark.parametrize("shape", [(2, 32, 48), (1, 32, 32), (2, 3, 32, 32), (2, 2, 2)])
def test_a_mask_of_another_shape_is_rejected(shape):
    with pytest.raises(
        ValueError, match=r"must have the shape \(2, 32, 32\) for `pixel_values` of the shape \(2, 3, 32, 32\)"
    ):
        tower_of("vit")(torch.rand(2, 3, 32, 32), torch.ones(shape))


@pytest.mark.parametrize("name", ["vit", "siglip", "timm-vit", "timm-cnn"])
@pytest.mark.parametrize(("size", "canvas"), [((40, 32), (64, 64)), ((32, 40), (64, 64)), ((32, 32), (64, 72))])
def test_a_side_that_is_not_a_multiple_of_the_patch_is_rejected(name, size, canvas):
    patch, side = PATCH.get(name, 16), size if canvas == (64, 64) else canvas
    message = f"multiples of {patch} x {patch}, .* but got an image of {side[0]} x {side[1]}"
    with pytest.raises(ValueError, match=message):
        tower_of(name)(*padded([size], canvas))


def test_a_stride_missing_in_the_configuration_is_measured_and_checked():
    tower = tower_of("resnet")  # with a stride of 8 in all
    with pytest.raises(
        ValueError, match=r"multiples of 8 x 8, the patch size of resnet in pixels, but got an image of 32 x 36"
    ):
        tower(*padded([(32, 32), (32, 36)], (32, 64)))
    with pytest.raises(
        ValueError, match="resnet must return 4 x 4 patches for an image of 24 x 24 pixels, but returned 9"
    ):
        tower(*padded([(12, 12), (24, 24)], (24, 24)))  # 12 becomes 2, as if the stride were 6


@pytest.mark.parametrize(
    ("config", "fix"),
    [
        (
            timm_config("vit_tiny_patch16_224", **SMALL_VIT),
            r'or set `vision_config.model_args={"dynamic_img_size',
        ),
        (
            timm_config("swin_tiny_patch4_window7_224", **SMALL_SWIN),
            r'vision_config.model_args={"dynamic_img_size": Tr',
        ),
        (SwinConfig(**SMALL_SWIN_OF_TRANSFORMERS), "or use timm's Swin"),
        (SamVisionConfig(**IMAGE, mlp_dim=16, output_channels=16, window_size=0), "or use another backbone"),
        (tiny.vision_config(image_size=(32, 64)), "or use a backbone pretrained on square images"),
    ],
    ids=["timm-vit", "timm-swin", "swin", "sam", "not-square"],
)
def test_a_backbone_that_takes_only_its_own_size_says_so(config, fix):
    tower = VisionTower(copy.deepcopy(config)).eval()
    own = (32, 64) if "square" in fix else (32, 32)
    pixel_values, pixel_attention_mask = padded([own, own], own)
    assert torch.equal(
        tower(pixel_values, pixel_attention_mask).last_hidden_state, tower(pixel_values).last_hidden_state
    )
    message = f"must be 32 x {own[1]} pixels, but got 64 x 96. Resize the images to 32 x {own[1]}, .*{fix}"
    with pytest.raises(ValueError, match=message):
        tower(*padded([own, (64, 96)], (64, 96)))


def test_a_mask_and_several_layers_exclude_each_other():
    tower = tower_of("vit", layers=[0, -1])
    with pytest.raises(ValueError, match=r"`pixel_attention_mask` cannot be combined with the vision layers \[0, -1\]"):
        tower(*padded([(32, 32)], (32, 32)))


def test_encoded_before_or_now_is_the_same():
    tower = tower_of("vit")
    pixel_values, pixel_attention_mask = padded(IN_PIXELS, CANVAS)
    now = tower.get_vision_features(
        pixel_values, vision_features=None, training=False, pixel_attention_mask=pixel_attention_mask
    )
    assert now.patch_attention_mask.shape == (5, 6, 8)
    before = tower.get_vision_features(
        None, vision_features=now.last_hidden_state, training=False, patch_attention_mask=now.patch_attention_mask
    )
    assert before.last_hidden_state is now.last_hidden_state
    assert before.patch_attention_mask is now.patch_attention_mask
    for masks in (
        {"patch_attention_mask": now.patch_attention_mask},
        {"pixel_attention_mask": pixel_attention_mask, "patch_attention_mask": now.patch_attention_mask},
    ):
        with pytest.raises(
            ValueError,
            match="Pass `pixel_attention_mask` with `pixel_values`, and `patch_attention_mask` with `vision_features`",
        ):
            tower.get_vision_features(pixel_values, vision_features=None, training=False, **masks)
    with pytest.raises(
        ValueError,
        match="Pass `pixel_attention_mask` with `pixel_values`, and `patch_attention_mask` with `vision_features`",
    ):
        tower.get_vision_features(
            None, vision_features=now.last_hidden_state, training=False, pixel_attention_mask=pixel_attention_mask
        )


def test_images_of_another_size_need_no_mask_if_all_are_alike():
    """The position embeddings are interpolated, and what would be dropped is refused, as with a mask."""
    tower, large = tower_of("vit"), torch.randn(2, 3, 48, 64)
    outputs = tower(large)
    torch.testing.assert_close(outputs.last_hidden_state, tower(large, torch.ones(2, 48, 64)).last_hidden_state)
    assert outputs.patch_attention_mask.shape == (2, 3, 4)
    with pytest.raises(ValueError, match=r"multiples of 16 x 16, .* 40 x 48"):
        tower(torch.randn(1, 3, 40, 48))
