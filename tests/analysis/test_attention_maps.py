import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from vlmkit.analysis.attention_maps import attention_rollout, class_attention, occlusion_map

GRID = (2, 3)
NUM_TOKENS = 7


def random_attentions(layers=3, heads=2, tokens=NUM_TOKENS, batch=4):
    return [torch.randn(batch, heads, tokens, tokens).softmax(dim=-1) for _ in range(layers)]


class TestClassAttention:
    def test_patches_row_by_row(self):
        attention = torch.zeros(1, 1, NUM_TOKENS, NUM_TOKENS)
        attention[0, 0, 0, 1:] = torch.arange(6.0)
        attention[0, 0, 1:, 1:] = 9.0  # what the patches attend to does not count
        assert class_attention([attention], GRID).tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]

    def test_layers_and_heads(self):
        attentions = random_attentions()
        last, first = class_attention(attentions, GRID), class_attention(attentions, GRID, layer=0)
        torch.testing.assert_close(last.flatten(1), attentions[2].mean(dim=1)[:, 0, 1:])
        torch.testing.assert_close(first, class_attention(attentions[:1], GRID))
        heads = [class_attention(attentions, GRID, head=head) for head in (0, 1)]
        torch.testing.assert_close(torch.stack(heads).mean(dim=0), last)
        assert not torch.equal(*heads)

    def test_further_prefix_tokens_are_left_out(self):
        attentions = random_attentions(tokens=9)
        assert torch.equal(
            class_attention(attentions, GRID, num_prefix_tokens=3).flatten(1), attentions[-1].mean(dim=1)[:, 0, 3:]
        )

    def test_the_rest_goes_to_the_prefix(self):
        attentions = random_attentions()
        total = class_attention(attentions, GRID).sum(dim=(1, 2)) + attentions[-1].mean(dim=1)[:, 0, 0]
        torch.testing.assert_close(total, torch.ones(4))

    def test_on_a_vision_transformer(self):
        config = ViTConfig(
            hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
        )
        model = ViTModel(config)
        model.set_attn_implementation("eager")
        attentions = model(torch.randn(3, 3, 8, 8), output_attentions=True).attentions
        for maps in (class_attention(attentions, (2, 2)), attention_rollout(attentions, (2, 2))):
            assert maps.shape == (3, 2, 2)
            assert not maps.requires_grad

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"attentions": ()}, 'attn_implementation="eager"'),
            ({"grid": (3, 3)}, r"`attentions` of layer 0 must have the shape \(images, heads, 10, 10\) for 1 prefix"),
            ({"num_prefix_tokens": 2}, "for 2 prefix tokens"),
            ({"num_prefix_tokens": 0, "grid": (1, 7)}, r"`num_prefix_tokens` must be at least 1 for the class"),
            ({"attentions": [torch.ones(2, 7, 7)]}, r"`attentions` of layer 0 must have the shape \(images, heads,"),
            ({"layer": 3}, r"`layer` must be from -3 to 2, the index of a layer, but got 3"),
            ({"layer": -4}, r"`layer` must be from -3 to 2, the index of a layer, but got -4"),
            ({"head": 2}, r"`head` must be from 0 to 1, the index of a head, but got 2"),
            ({"head": -1}, r"`head` must be from 0 to 1, the index of a head, but got -1"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            class_attention(**{"attentions": random_attentions(), "grid": GRID, **arguments})


class TestAttentionRollout:
    def test_is_the_product_of_the_layers(self):
        attentions = random_attentions()
        product = torch.eye(NUM_TOKENS)
        for heads in attentions:
            product = (heads.mean(dim=1) + torch.eye(NUM_TOKENS)) / 2 @ product
        torch.testing.assert_close(attention_rollout(attentions, GRID).flatten(1), product[:, 0, 1:])

    def test_one_layer_is_half_its_attention(self):
        attentions = random_attentions(layers=1)
        torch.testing.assert_close(attention_rollout(attentions, GRID), class_attention(attentions, GRID) / 2)

    def test_layers_that_mix_nothing_let_no_patch_through(self):
        identity = torch.eye(NUM_TOKENS).expand(1, 2, NUM_TOKENS, NUM_TOKENS)
        assert attention_rollout([identity] * 3, GRID).abs().max() == 0

    def test_error(self):
        with pytest.raises(ValueError, match=r"`attentions` of layer 0 must have the shape \(images, heads, 5, 5\)"):
            attention_rollout(random_attentions(), (2, 2))


class TestOcclusionMap:
    def test_only_the_patch_that_counts(self):
        images = torch.rand(2, 3, 4, 6)

        def upper_right(pixels):
            return pixels[:, :, :2, 4:].sum(dim=(1, 2, 3))

        drops = occlusion_map(upper_right, images, patch_size=2)
        by_hand = upper_right(images) - 4 * images.mean(dim=(2, 3)).sum(dim=1)
        torch.testing.assert_close(drops[:, 0, 2], by_hand)
        drops[:, 0, 2] = 0
        assert drops.tolist() == torch.zeros(2, 2, 3).tolist()

    def test_each_image_keeps_its_own_target_and_mean_colour(self):
        images, targets = torch.rand(3, 3, 4, 4), torch.randn(3, 48)

        def score(pixels):
            return (pixels.flatten(1) * targets).sum(dim=1)

        together = occlusion_map(score, images, patch_size=2)
        for index in range(3):
            alone = occlusion_map(
                lambda pixels, i=index: pixels.flatten(1) @ targets[i], images[index, None], patch_size=2
            )
            torch.testing.assert_close(together[index, None], alone)

    def test_on_a_cnn_without_gradients_and_leaves_the_images_alone(self):
        encoder = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        images = torch.rand(2, 3, 8, 16)
        before = images.clone()
        drops = occlusion_map(lambda pixels: encoder(pixels)[:, 0], images, patch_size=4)
        assert drops.shape == (2, 2, 4)
        assert not drops.requires_grad
        assert torch.equal(images, before)

    @pytest.mark.parametrize(
        ("shape", "patch_size", "score", "message"),
        [
            ((3, 4, 4), 2, torch.sum, r"`pixel_values` must have the shape \(images, channels, height, width\), but"),
            ((2, 3, 4, 6), 4, torch.sum, r"`patch_size` must divide the height 4 and the width 6 of the images, but"),
            ((2, 3, 4, 4), 0, torch.sum, r"`patch_size` must divide the height 4 and the width 4 of the images, but"),
            ((2, 3, 4, 4), 2, torch.sum, r"`score` must return one number for each of the 2 images, but returned \(\)"),
        ],
    )
    def test_errors(self, shape, patch_size, score, message):
        with pytest.raises(ValueError, match=message):
            occlusion_map(score, torch.rand(shape), patch_size=patch_size)
