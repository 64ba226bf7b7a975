import pytest
import torch
from torch.nn.functional import cosine_similarity

from vlmkit.analysis.token_similarity import discriminative_power, token_similarity


class TestTokenSimilarity:
    def test_by_hand(self):
        queries = torch.tensor([[[2.0, 0.0], [3.0, 4.0], [-1.0, 0.0]]])
        patches = torch.tensor([[[0.0, 7.0], [1.0, 0.0]]])
        similarity = token_similarity(queries, patches)
        torch.testing.assert_close(similarity.global_to_query, torch.tensor([[0.6, -1.0]]))
        torch.testing.assert_close(similarity.global_to_image, torch.tensor([[0.0, 1.0]]))
        torch.testing.assert_close(similarity.query_to_image, torch.tensor([[0.4, -0.2]]))

    def test_every_image_is_its_own(self):
        queries, patches = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
        together = token_similarity(queries, patches)
        assert [tuple(values.shape) for values in together] == [(3, 4), (3, 7), (3, 7)]
        for index in range(3):
            alone = token_similarity(queries[index, None], patches[index, None])
            for whole, one in zip(together, alone, strict=True):
                torch.testing.assert_close(whole[index, None], one)

    def test_is_the_mean_of_the_cosines(self):
        queries, patches = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
        cosines = cosine_similarity(queries[:, 1:, None], patches[:, None], dim=-1)
        torch.testing.assert_close(token_similarity(queries, patches).query_to_image, cosines.mean(dim=1))

    def test_half_precision_gives_float32_without_gradients(self):
        queries = torch.randn(1, 3, 8, dtype=torch.bfloat16, requires_grad=True)
        similarity = token_similarity(queries, torch.randn(1, 4, 8))
        assert all(values.dtype == torch.float32 and not values.requires_grad for values in similarity)

    @pytest.mark.parametrize(
        ("queries", "patches", "message"),
        [
            ((2, 1, 8), (2, 4, 8), r"`query_embeds` must have the shape \(images, 1 \+ queries, width\) with at"),
            ((2, 3, 8), (1, 4, 8), r"`query_embeds` must have the shape \(images, 1 \+ queries, width\) with at"),
            ((2, 3, 8), (2, 4, 6), r"`query_embeds` must have the shape \(images, 1 \+ queries, width\) with at"),
            ((3, 8), (2, 4, 8), r"`query_embeds` must have the shape \(images, 1 \+ queries, width\) with at least"),
            ((2, 3, 8), (4, 8), r"`query_embeds` must have the shape \(images, 1 \+ queries, width\) with at least"),
        ],
    )
    def test_errors(self, queries, patches, message):
        with pytest.raises(ValueError, match=message):
            token_similarity(torch.ones(queries), torch.ones(patches))


class TestDiscriminativePower:
    @pytest.mark.parametrize(
        ("tokens", "power"),
        [
            ([[1.0, 2.0], [1.0, 2.0], [3.0, 6.0]], 0.0),
            ([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]], 1.0),
            ([[1.0, 0.0], [-5.0, 0.0]], 2.0),
            ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 2 / 3),  # one pair of three is alike
        ],
    )
    def test_closed_form(self, tokens, power):
        assert discriminative_power(torch.tensor(tokens)) == pytest.approx(power, abs=1e-12)

    def test_is_one_less_the_mean_over_all_pairs(self):
        tokens = torch.randn(50, 16, dtype=torch.float64) + 1
        cosines = cosine_similarity(tokens[:, None], tokens[None], dim=-1)
        different = cosines[~torch.eye(50, dtype=torch.bool)]
        assert discriminative_power(tokens) == pytest.approx(1 - different.mean().item())

    def test_many_images_need_no_matrix_of_pairs(self):
        tokens = torch.ones(200_000, 2)  # of which it would take 160 GB
        assert discriminative_power(tokens) == pytest.approx(0.0, abs=1e-9)

    @pytest.mark.parametrize("shape", [(1, 8), (0, 8), (8,), (2, 3, 8)])
    def test_errors(self, shape):
        with pytest.raises(ValueError, match="at least two images"):
            discriminative_power(torch.ones(shape))
