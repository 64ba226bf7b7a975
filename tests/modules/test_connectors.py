import pytest
import torch
from tests import tiny
from torch import nn
from torch.nn.functional import gelu, linear, relu, silu
from transformers import Idefics3Config
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from vlmkit.modules.connectors import (
    MLPConnector,
    PerceiverConnector,
    PixelShuffleConnector,
    QFormerConnector,
    flatten_patch_mask,
)
from vlmkit.modules.text_encoders import encoder_sizes

CONFIG = tiny.smolvlm_config()  # tells which attention is computed how
SIZES = encoder_sizes(tiny.distilbert_config())


def filled(module: nn.Module) -> nn.Module:
    """In evaluation, with weights that leave nothing near zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
    return module.eval()


def connector(
    vision_size: int = 24, num_cross_attention_heads: int | None = None, cross_attention_frequency: int = 2
) -> QFormerConnector:
    return filled(
        QFormerConnector(
            CONFIG,
            vision_size=vision_size,
            encoder_sizes=SIZES,
            num_queries=3,
            num_cross_attention_heads=num_cross_attention_heads,
            cross_attention_frequency=cross_attention_frequency,
            text_size=20,
        )
    )


def perceiver() -> PerceiverConnector:
    return filled(
        PerceiverConnector(
            CONFIG, vision_size=24, text_size=20, intermediate_size=32, num_latents=3, depth=2, num_heads=4
        )
    )


def mlp() -> MLPConnector:
    return filled(MLPConnector(vision_size=24, text_size=20))


def pixel_shuffle(factor: int = 2) -> PixelShuffleConnector:
    return filled(PixelShuffleConnector(vision_size=24, text_size=20, factor=factor))


CONNECTORS = pytest.mark.parametrize("make", [connector, perceiver, mlp, pixel_shuffle])


def padded(*images: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grids of tokens `(h, w, D)` in the corner of larger ones: `(B, rows * columns, D)` and `patch_attention_mask`."""
    tokens = torch.randn(len(images), rows, columns, images[0].shape[-1]) * 10  # that nobody may see
    mask = torch.zeros(len(images), rows, columns, dtype=torch.bool)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        tokens[row, :height, :width], mask[row, :height, :width] = image, True
    return tokens.flatten(1, 2), mask


@CONNECTORS
class TestEveryConnector:
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_a_padded_image_is_as_the_image_alone(self, make, implementation, monkeypatch):
        monkeypatch.setattr(CONFIG, "_attn_implementation", implementation)
        made, images = make(), [torch.randn(4, 6, 24), torch.randn(2, 4, 24), torch.randn(4, 2, 24)]
        embeds, embed_mask = made(*padded(*images, rows=4, columns=6))
        for row, image in enumerate(images):
            alone, all_real = made(image.flatten(0, 1)[None], torch.ones(1, *image.shape[:2], dtype=torch.bool))
            ours = embeds[row] if embed_mask is None else embeds[row, embed_mask[row]]
            assert all_real is None or all_real.all()
            torch.testing.assert_close(ours, alone[0])

    def test_a_mask_without_padding_changes_nothing(self, make):
        made, tokens = make(), torch.randn(2, 16, 24)
        embeds, embed_mask = made(tokens, torch.ones(2, 4, 4, dtype=torch.bool))
        assert embed_mask is None or embed_mask.all()
        torch.testing.assert_close(embeds, made(tokens)[0])
        assert made(tokens)[1] is None

    def test_images_do_not_depend_on_each_other(self, make):
        made, tokens = make(), torch.randn(2, 16, 24)
        embeds, _ = made(tokens)
        assert embeds.shape == (2, {mlp: 16, pixel_shuffle: 4}.get(make, 3), 20)
        torch.testing.assert_close(embeds[1:], made(tokens[1:])[0])
        assert (embeds[0] - embeds[1]).abs().max() > 1e-2

    def test_gradients_reach_every_parameter_and_no_padding(self, make):
        made = make().train()
        tokens, mask = padded(torch.randn(4, 4, 24), torch.randn(2, 2, 24), rows=4, columns=4)
        embeds, embed_mask = made(tokens.requires_grad_(), mask)
        (embeds if embed_mask is None else embeds[embed_mask]).square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
        for name, parameter in made.named_parameters():  # a bias of all keys changes no softmax
            assert parameter.grad.abs().sum() > 0 or name.endswith("k_proj.bias")
        assert torch.equal(tokens.grad.abs().sum(dim=-1) > 0, mask.flatten(1))

    def test_half_precision(self, make):
        made = make()
        tokens, mask = padded(torch.randn(4, 4, 24), torch.randn(2, 2, 24), rows=4, columns=4)
        embeds, embed_mask = made.to(torch.bfloat16)(tokens.to(torch.bfloat16), mask)
        assert embeds.dtype == torch.bfloat16
        assert embeds.isfinite().all()
        assert embed_mask is None or embed_mask.dtype == torch.bool

    def test_a_mask_of_more_tokens_is_rejected(self, make):
        with pytest.raises(
            ValueError,
            match=r"describes 4 x 4 patches, but there are only 12 vision|must contain 4 x 4 patches, but got 12",
        ):
            make()(torch.randn(1, 12, 24), torch.ones(1, 4, 4, dtype=torch.bool))


@pytest.mark.parametrize("make", [connector, perceiver, mlp])
def test_class_tokens_are_real(make):
    made, image, prefix = make(), torch.randn(2, 3, 24), torch.randn(1, 1, 24)
    tokens, mask = padded(image, rows=3, columns=4)
    embeds, embed_mask = made(torch.cat([prefix, tokens], dim=1), mask)
    alone, _ = made(torch.cat([prefix, image.flatten(0, 1)[None]], dim=1))
    torch.testing.assert_close(embeds if embed_mask is None else embeds[embed_mask][None], alone)
    assert (embeds - made(torch.cat([-prefix, tokens], dim=1), mask)[0]).abs().max() > 1e-2


def test_a_flat_mask_is_row_by_row_behind_what_stands_in_front():
    mask = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 0]]]).bool()
    assert flatten_patch_mask(mask, 6).int().tolist() == [[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    assert flatten_patch_mask(mask, 8).int().tolist() == [[1, 1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    with pytest.raises(ValueError, match="describes 2 x 3 patches, but there are only 5 vision tokens"):
        flatten_patch_mask(mask, 5)


def test_perceiver_is_a_gated_mlp_and_a_resampler():
    made, tokens = perceiver(), torch.randn(2, 5, 24)
    weights = made.modality_projection.state_dict()
    hidden = silu(linear(tokens, weights["gate_proj.weight"])) * linear(tokens, weights["up_proj.weight"])
    assert hidden.shape == (2, 5, 32)
    expected = made.resampler(linear(hidden, weights["down_proj.weight"]))
    torch.testing.assert_close(made(tokens)[0], expected)


def test_mlp_is_two_layers_with_an_exact_gelu_between_them():
    made, tokens = mlp(), torch.randn(2, 5, 24)
    weights = made.state_dict()
    hidden = gelu(linear(tokens, weights["fc1.weight"], weights["fc1.bias"]))
    torch.testing.assert_close(made(tokens)[0], linear(hidden, weights["fc2.weight"], weights["fc2.bias"]))


def identity(factor: int, width: int = 1) -> PixelShuffleConnector:
    """Shows what is put together."""
    made = PixelShuffleConnector(vision_size=width, text_size=factor**2 * width, factor=factor)
    nn.init.eye_(made.projection.weight)
    return made


class TestPixelShuffleConnector:
    def test_squares_of_a_grid_are_put_together(self):
        grid = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]).float()
        embeds, mask = identity(2)(grid.view(1, 16, 1))
        assert embeds.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
        assert mask is None

    def test_a_grid_may_be_wide(self):
        tokens, mask = torch.arange(12.0).view(1, 12, 1), torch.ones(1, 2, 6, dtype=torch.bool)
        embeds, _ = identity(2)(tokens, mask)
        assert embeds.tolist() == [[[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]]

    def test_features_of_a_token_stay_together(self):
        embeds, _ = identity(2, width=2)(torch.tensor([[[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]]))
        assert embeds.tolist() == [[[0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]]]

    def test_padding_is_zeros_and_a_square_of_it_is_none(self):
        mask = torch.tensor([[[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]).bool()
        embeds, embed_mask = identity(2)(torch.arange(1.0, 17).view(1, 16, 1), mask)
        assert embeds.tolist() == [[[1, 2, 5, 6], [3, 0, 7, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
        assert embed_mask.tolist() == [[True, True, False, False]]

    @pytest.mark.parametrize("factor", [1, 2, 3])
    def test_is_idefics3s(self, factor):
        sizes = {
            "vision_config": {"hidden_size": 24},
            "text_config": tiny.llama_config(hidden_size=20, num_attention_heads=2),
        }
        theirs = Idefics3Connector(Idefics3Config(**sizes, scale_factor=factor))
        made, tokens = pixel_shuffle(factor), torch.randn(2, 36, 24)
        theirs.modality_projection.proj.load_state_dict(made.projection.state_dict())
        torch.testing.assert_close(made(tokens)[0], theirs(tokens))

    @pytest.mark.parametrize(
        ("num_tokens", "factor", "message"),
        [
            (197, 2, "must contain 14 x 14 patches, but got 197 tokens. Remove class"),
            (49, 2, "A grid of 7 x 7 patches is not divisible by `pixel_shuffle_factor`=2. Choose another factor"),
            (4, 4, "A grid of 2 x 2 patches is not divisible by `pixel_shuffle_factor`=4"),
        ],
    )
    def test_tokens_that_do_not_fill_blocks_are_rejected(self, num_tokens, factor, message):
        with pytest.raises(ValueError, match=message):
            pixel_shuffle(factor)(torch.randn(1, num_tokens, 24))

    def test_a_mask_that_does_not_fit_is_rejected(self):
        with pytest.raises(ValueError, match=r"must contain 4 x 4 patches, but got 17 tokens\. Remove class"):
            pixel_shuffle()(torch.randn(1, 17, 24), torch.ones(1, 4, 4, dtype=torch.bool))
        with pytest.raises(ValueError, match="A grid of 4 x 3 patches is not divisible by `pixel_shuffle_factor`=2"):
            pixel_shuffle()(torch.randn(1, 12, 24), torch.ones(1, 4, 3, dtype=torch.bool))

    def test_a_factor_below_one_is_rejected(self):
        with pytest.raises(ValueError, match="`factor` must be at least 1, but got 0"):
            pixel_shuffle(0)


class TestQFormerConnector:
    def test_is_a_projection_a_qformer_and_two_layers_with_a_relu_between_them(self):
        made, tokens = connector(), torch.randn(2, 5, 24)
        weights = made.state_dict()
        projected = linear(tokens, weights["vision_projection.weight"], weights["vision_projection.bias"])
        queries = made.qformer(vision_features=projected).queries
        hidden = relu(linear(queries, weights["fc1.weight"], weights["fc1.bias"]))
        expected = linear(hidden, weights["fc2.weight"], weights["fc2.bias"])
        assert queries.shape == (2, 3, 16)
        assert made(tokens)[0].shape == (2, 3, 20)
        assert (hidden == 0).float().mean() > 0.1
        torch.testing.assert_close(made(tokens)[0], expected)

    def test_projects_where_the_widths_differ_only(self):
        assert isinstance(connector(vision_size=16).vision_projection, nn.Identity)
        assert connector(vision_size=24).vision_projection.weight.shape == (16, 24)
        assert connector(vision_size=16)(torch.randn(2, 5, 16))[0].shape == (2, 3, 20)

    def test_images_with_different_numbers_of_tokens_do_not_depend_on_each_other(self):
        made = connector()
        small, large = torch.randn(2, 5, 24), torch.randn(1, 9, 24)
        torch.testing.assert_close(made(small)[0][1:], made(small[1:])[0])
        assert made(large)[0].shape == (1, 3, 20)
        assert (made(small)[0][0] - made(small)[0][1]).abs().max() > 1e-2
        torch.testing.assert_close(
            made(large)[0], made(large.flip(dims=[1]))[0]
        )  # the vision tower knows where a token is

    def test_heads_to_the_image_are_the_text_encoders_unless_given(self):
        tokens = torch.randn(1, 5, 24)
        torch.testing.assert_close(
            connector()(tokens)[0], connector(num_cross_attention_heads=SIZES.num_heads)(tokens)[0]
        )
        assert not torch.allclose(connector()(tokens)[0], connector(num_cross_attention_heads=4)(tokens)[0], atol=1e-3)

    @pytest.mark.parametrize(("frequency", "layers"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [1])])
    def test_layers_that_look_at_the_image(self, frequency, layers):
        parts = connector(cross_attention_frequency=frequency).qformer.layers
        assert [row for row, layer in enumerate(parts) if layer.image_attention is not None] == layers

    def test_all_that_it_has_is_used(self):
        made = connector().train()
        made(torch.randn(2, 5, 24))[0].sum().backward()
        assert all(parameter.grad is not None for parameter in made.parameters())

    def test_heads_that_do_not_divide_the_width_are_rejected(self):
        with pytest.raises(ValueError, match="must divide the width 16, but got 5 heads"):
            connector(num_cross_attention_heads=5)

    def test_padding_is_masked_in_every_layer_that_looks_at_the_image(self):
        made, tokens, mask = (
            connector(cross_attention_frequency=1),
            torch.randn(1, 5, 24),
            torch.tensor([[[True, True, False]]]),
        )
        expected = made(tokens[:, :4])[0]  # two class tokens in front
        torch.testing.assert_close(made(tokens, mask)[0], expected)
        assert not torch.allclose(made(tokens)[0], expected, atol=1e-2)
