import math

import pytest
import torch

from vlmkit.losses import hard_negatives, matching_loss, matching_pairs

SIMILARITY = torch.tensor([[9.0, 3.0, 1.0], [0.0, 9.0, 2.0], [5.0, 4.0, 9.0]])


def test_the_most_similar_wrong_candidate_is_taken():
    assert hard_negatives(SIMILARITY, draw=False).tolist() == [1, 2, 0]
    assert hard_negatives(SIMILARITY.T, draw=False).tolist() == [2, 2, 1]


def test_negatives_are_drawn_with_the_softmax_of_their_similarity():
    draws = torch.stack([hard_negatives(SIMILARITY) for _ in range(3000)])
    probabilities = SIMILARITY.masked_fill(torch.eye(3, dtype=torch.bool), float("-inf")).softmax(dim=1)
    shares = torch.nn.functional.one_hot(draws, 3).float().mean(dim=0)
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=0.03)
    assert shares.diagonal().tolist() == [0, 0, 0]


@pytest.mark.parametrize("draw", [True, False])
def test_the_own_group_is_never_chosen(draw):
    groups = torch.tensor([4, 4, 7, 4])
    similarity = 100 * torch.rand(4, 4)
    for _ in range(20):
        assert hard_negatives(similarity, groups, draw=draw).tolist()[:2] == [2, 2]
        assert hard_negatives(similarity, groups, draw=draw)[2] != 2


@pytest.mark.parametrize("draw", [True, False])
@pytest.mark.parametrize("groups", [torch.tensor([1]), torch.tensor([5, 5, 5]), None])
def test_a_batch_of_one_image_has_no_negatives(groups, draw):
    size = 1 if groups is None else len(groups)
    pairs = matching_pairs(torch.rand(size, size), groups, draw=draw)
    assert hard_negatives(torch.rand(size, size), groups, draw=draw).tolist() == [-1] * size
    assert pairs.weights.tolist() == [1.0] * size + [0.0] * 2 * size
    logits = torch.full((3 * size,), 2.0)
    assert matching_loss(logits, pairs).item() == pytest.approx(math.log1p(math.exp(-2)))


def test_large_similarities_of_half_precision_are_no_trouble():
    assert hard_negatives(torch.full((3, 3), 1e4, dtype=torch.float16)).min() >= 0


def test_pairs_are_true_ones_then_wrong_texts_then_wrong_images():
    pairs = matching_pairs(SIMILARITY, draw=False)
    assert pairs.image_rows.tolist() == [0, 1, 2, 0, 1, 2, 2, 2, 1]
    assert pairs.text_rows.tolist() == [0, 1, 2, 1, 2, 0, 0, 1, 2]
    assert pairs.targets.tolist() == [1.0] * 3 + [0.0] * 6
    assert pairs.weights.tolist() == [1.0] * 9


def test_the_loss_is_the_mean_binary_cross_entropy():
    pairs = matching_pairs(SIMILARITY, draw=False)
    assert matching_loss(torch.zeros(9), pairs).item() == pytest.approx(math.log(2))
    logits = torch.randn(9)
    right = torch.where(pairs.targets == 1, logits, -logits)
    torch.testing.assert_close(matching_loss(logits, pairs), torch.log1p((-right).exp()).mean())


def test_it_is_computed_in_float32():
    assert matching_loss(torch.zeros(9, dtype=torch.bfloat16), matching_pairs(SIMILARITY)).dtype == torch.float32


def test_no_gradient_flows_into_the_choice():
    similarity = SIMILARITY.clone().requires_grad_()
    assert not any(part.requires_grad for part in matching_pairs(similarity))


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
def test_similarities_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError, match=r"`similarity` must have the shape \(B, B\) with pairs on the diagonal,"):
        hard_negatives(torch.zeros(shape))


def test_groups_and_logits_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"`group_ids` must have the shape \(3,\), one integer for each row, but"):
        hard_negatives(SIMILARITY, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"`logits` must have the shape \(9,\), one for each combination, but got"):
        matching_loss(torch.zeros(3), matching_pairs(SIMILARITY))
