import pytest
import torch

from vlmkit.modules.fusion import cached_images, merge_image_embeds

# Two images of two places each in the first text, none in the second, one in the third.
MASK = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 1, 0]]).bool()
TEXTS = -torch.arange(1.0, 16).view(3, 5, 1)
IMAGES = torch.arange(1.0, 7).view(3, 2, 1)


class TestMergeImageEmbeds:
    def test_fills_placeholders_in_the_order_of_texts_and_images(self):
        merged = merge_image_embeds(TEXTS, image_token_mask=MASK, image_embeds=IMAGES)
        assert merged[..., 0].tolist() == [[1, 2, -3, 3, 4], [-6, -7, -8, -9, -10], [-11, -12, 5, 6, -15]]
        assert TEXTS[0, 0] == -1  # what was given is as it was

    def test_tokens_of_an_image_may_come_in_parts(self):
        """As when a long prompt is read piece by piece."""
        first = merge_image_embeds(
            TEXTS[:, :4], image_token_mask=MASK[:, :4], image_embeds=IMAGES.view(1, 6, 1)[:, [0, 1, 2, 4, 5]]
        )
        rest = merge_image_embeds(TEXTS[:, 4:], image_token_mask=MASK[:, 4:], image_embeds=IMAGES.view(1, 6, 1)[:, [3]])
        assert torch.equal(
            torch.cat([first, rest], dim=1), merge_image_embeds(TEXTS, image_token_mask=MASK, image_embeds=IMAGES)
        )

    def test_without_images_nothing_changes(self):
        assert merge_image_embeds(TEXTS, image_token_mask=torch.zeros(3, 5).bool(), image_embeds=None) is TEXTS
        assert torch.equal(
            merge_image_embeds(TEXTS, image_token_mask=torch.zeros(3, 5).bool(), image_embeds=IMAGES[:0]), TEXTS
        )

    def test_gradients_reach_words_and_images_once(self):
        texts, images = TEXTS.clone().requires_grad_(), IMAGES.clone().requires_grad_()
        weights = torch.rand(3, 5, 1)
        (merge_image_embeds(texts, image_token_mask=MASK, image_embeds=images) * weights).sum().backward()
        assert torch.equal(texts.grad, weights.masked_fill(MASK[..., None], 0))
        assert torch.equal(images.grad.flatten(), weights[MASK].flatten())

    def test_images_take_the_precision_of_the_text(self):
        merged = merge_image_embeds(TEXTS.bfloat16(), image_token_mask=MASK, image_embeds=IMAGES)
        assert merged.dtype == torch.bfloat16
        assert merged[0, 0, 0] == 1

    @pytest.mark.parametrize(
        ("num_images", "message"),
        [
            (
                0,
                "The texts must have 0 image tokens for the 0 images, but got 6. Pass one image for each",
            ),
            (1, "must have 2 image tokens for the 1 images, but got 6"),
            (2, "must have 4 image tokens for the 2 images, but got 6"),
            (4, "must have 8 image tokens for the 4 images, but got 6"),
        ],
    )
    def test_more_or_fewer_images_than_placeholders_are_rejected(self, num_images, message):
        images = torch.zeros(num_images, 2, 1) if num_images else None
        with pytest.raises(ValueError, match=message):
            merge_image_embeds(TEXTS, image_token_mask=MASK, image_embeds=images)

    def test_an_image_that_was_cut_is_rejected(self):
        with pytest.raises(ValueError, match="must have 6 image tokens for the 3 images, but got 5"):
            merge_image_embeds(TEXTS[:, :4], image_token_mask=MASK[:, :4], image_embeds=IMAGES)


class TestCachedImages:
    @pytest.mark.parametrize(
        ("num_cached", "expected"),
        [
            (-1, [False, False, False]),
            (0, [False, False, False]),
            (2, [True, False, False]),
            (5, [True, True, True]),
            (9, [True, True, True]),
        ],
    )
    def test_are_those_in_front_of_the_caches_end(self, num_cached, expected):
        assert (
            cached_images(MASK, num_image_tokens=torch.tensor([2, 2, 2]), num_cached_tokens=num_cached).tolist()
            == expected
        )

    @pytest.mark.parametrize("num_cached", [1, 3, 4])
    def test_a_cache_that_ends_within_an_image_is_rejected(self, num_cached):
        with pytest.raises(ValueError, match=f"must not end within an image, but it holds {num_cached} tokens"):
            cached_images(MASK, num_image_tokens=torch.tensor([2, 2, 2]), num_cached_tokens=num_cached)

    def test_of_no_images(self):
        assert (
            cached_images(
                torch.zeros(2, 4).bool(), num_image_tokens=torch.zeros(0, dtype=torch.long), num_cached_tokens=3
            ).tolist()
            == []
        )

    @pytest.mark.parametrize("num_images", [2, 4])
    def test_more_or_fewer_images_than_placeholders_are_rejected(self, num_images):
        with pytest.raises(
            ValueError, match=f"must have {2 * num_images} image tokens for the {num_images} images, but got 6"
        ):
            cached_images(MASK, num_image_tokens=torch.full((num_images,), 2), num_cached_tokens=0)
