import math

import pytest
import torch
import torch.nn.functional as F

from vlmkit.losses import bank_logits, bank_softmax, soft_cross_entropy, swapped_margin


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def test_equal_embeddings_give_the_logarithm_of_the_number_of_captions():
    ids = torch.tensor([0, 8, 3])
    for images, bank in ((torch.zeros(3, 4), unit(9, 4)), (unit(3, 4), unit(1, 4).expand(9, 4))):
        assert bank_softmax(images, bank, logit_scale=1 / 0.07, caption_ids=ids).item() == pytest.approx(
            math.log(9), rel=1e-5
        )
        assert bank_softmax(
            images, bank, logit_scale=1 / 0.07, caption_ids=ids, label_smoothing=0.3
        ).item() == pytest.approx(math.log(9), 1e-5)


def test_bank_softmax_by_hand():
    bank = torch.eye(3)
    loss = bank_softmax(
        bank[:2], bank, logit_scale=2.0, caption_ids=torch.tensor([0, 2])
    )  # the first is right, the second is not
    right, wrong = -2 + math.log(math.exp(2) + 2), math.log(math.exp(2) + 2)
    assert loss.item() == pytest.approx((right + wrong) / 2)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_bank_softmax_is_torchs_cross_entropy(label_smoothing):
    images, bank, ids = unit(6, 8), unit(9, 8), torch.tensor([0, 8, 3, 3, 5, 1])
    expected = F.cross_entropy(14.0 * images @ bank.T, ids, label_smoothing=label_smoothing)
    torch.testing.assert_close(
        bank_softmax(images, bank, logit_scale=14.0, caption_ids=ids, label_smoothing=label_smoothing), expected
    )


def test_label_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    norm = math.log(math.exp(2) + 3)
    # 0.2 is spread over four, so the own one keeps 0.85.
    expected = -(0.85 * (2 - norm) + 3 * 0.05 * (0 - norm))
    assert soft_cross_entropy(logits, torch.tensor([0]), label_smoothing=0.2).item() == pytest.approx(expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weighted_targets_are_torchs_soft_targets(label_smoothing):
    logits, ids = torch.randn(3, 9), torch.tensor([[0, 4, 8, 2], [1, 1, 3, 3], [5, 5, 5, 5]])
    weights = torch.rand(3, 4)
    weights = weights / weights.sum(dim=1, keepdim=True)
    targets = torch.zeros(3, 9).scatter_add(1, ids, weights)
    expected = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    torch.testing.assert_close(
        soft_cross_entropy(logits, ids, weights=weights, label_smoothing=label_smoothing), expected
    )


def test_the_sum_of_weighted_losses_is_the_loss_of_weighted_targets():
    images, bank = unit(1, 8), unit(9, 8)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    single = [bank_softmax(images, bank, logit_scale=5.0, caption_ids=torch.tensor([i])) for i in (7, 1, 4, 0)]
    expected = sum(weight * loss for weight, loss in zip(weights[0], single, strict=True))
    torch.testing.assert_close(
        bank_softmax(images, bank, logit_scale=5.0, caption_ids=torch.tensor([[7, 1, 4, 0]]), caption_weights=weights),
        expected,
    )


class TestSwappedMargin:
    bank = torch.eye(4)  # captions of the classes (0, 0), (0, 1), (1, 0) and (1, 1)
    own, swapped = torch.tensor([1]), torch.tensor([2])

    def test_by_hand(self):
        images = torch.tensor([[0.0, 0.6, 0.8, 0.0]])
        assert swapped_margin(
            images, self.bank, caption_ids=self.own, swapped_ids=self.swapped, margin=0.05
        ).item() == pytest.approx(0.25)

    def test_it_is_zero_without_gradient_once_the_margin_is_met(self):
        images = torch.tensor([[0.0, 0.8, 0.6, 0.0]], requires_grad=True)
        met = swapped_margin(images, self.bank, caption_ids=self.own, swapped_ids=self.swapped, margin=0.19)
        assert met.item() == 0
        [gradient] = torch.autograd.grad(met, images)
        assert not gradient.any()
        assert swapped_margin(
            images, self.bank, caption_ids=self.own, swapped_ids=self.swapped, margin=0.21
        ).item() == pytest.approx(0.01)

    def test_it_pulls_to_the_own_caption_and_pushes_off_the_swapped_one(self):
        images = torch.tensor([[0.0, 0.6, 0.8, 0.0]], requires_grad=True)
        swapped_margin(images, self.bank, caption_ids=self.own, swapped_ids=self.swapped, margin=0.05).backward()
        assert images.grad.tolist() == [[0, -1, 1, 0]]

    def test_captions_that_are_their_own_swap_count_as_zero(self):
        images, same = unit(2, 4).requires_grad_(), torch.tensor([0, 3])
        loss = swapped_margin(images, self.bank, caption_ids=same, swapped_ids=same, margin=0.5)
        assert loss.item() == 0
        loss.backward()
        assert not images.grad.any()
        images = torch.tensor([[0.0, 0.6, 0.8, 0.0]]).repeat(2, 1)
        half = swapped_margin(
            images, self.bank, caption_ids=torch.tensor([1, 3]), swapped_ids=torch.tensor([2, 3]), margin=0.05
        )
        assert half.item() == pytest.approx(0.25 / 2)  # the mean is over all pairs

    def test_weighted_captions(self):
        images = unit(2, 4)
        ids, swapped = torch.tensor([[1, 0], [2, 1]]), torch.tensor([[2, 0], [1, 2]])
        weights = torch.tensor([[0.7, 0.3], [0.6, 0.4]])
        single = [
            weights[i, k]
            * swapped_margin(
                images[i : i + 1],
                self.bank,
                caption_ids=ids[i, k : k + 1],
                swapped_ids=swapped[i, k : k + 1],
                margin=0.9,
            )
            for i in range(2)
            for k in range(2)
        ]
        expected = sum(single) / 2
        assert expected > 0.1
        torch.testing.assert_close(
            swapped_margin(
                images, self.bank, caption_ids=ids, swapped_ids=swapped, margin=0.9, caption_weights=weights
            ),
            expected,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32(dtype):
    images, bank, ids = unit(4, 8).to(dtype), unit(9, 8).to(dtype), torch.tensor([0, 8, 3, 3])
    scale = torch.tensor([100.0], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = {
            "softmax": bank_softmax(images, bank, logit_scale=scale, caption_ids=ids),
            "margin": swapped_margin(images, bank, caption_ids=ids, swapped_ids=ids - 1, margin=0.5),
            "logits": bank_logits(images, bank, logit_scale=scale),
            "class": soft_cross_entropy(torch.linspace(-3, 3, 36).view(4, 9).to(dtype), ids),
        }
    images, bank = images.float(), bank.float()
    expected = {
        "softmax": bank_softmax(images, bank, logit_scale=100.0, caption_ids=ids),
        "margin": swapped_margin(images, bank, caption_ids=ids, swapped_ids=ids - 1, margin=0.5),
        "logits": bank_logits(images, bank, logit_scale=100.0),
        "class": soft_cross_entropy(torch.linspace(-3, 3, 36).view(4, 9).to(dtype).float(), ids),
    }
    assert {value.dtype for value in half.values()} == {torch.float32}
    torch.testing.assert_close(half, expected)


def test_learns_the_scale():
    scale = torch.tensor([2.0], requires_grad=True)
    bank_softmax(unit(4, 8), unit(9, 8), logit_scale=scale, caption_ids=torch.tensor([0, 8, 3, 3])).backward()
    assert scale.grad.abs().item() > 0


@pytest.mark.parametrize(("images", "bank"), [((3, 4), (9, 5)), ((3, 4, 1), (9, 4)), ((3, 4), (4,))])
def test_refuses_sides_of_other_widths(images, bank):
    with pytest.raises(ValueError, match=r"`image_embeds` and `caption_embeds` must have the shapes \(B, D\) and"):
        bank_softmax(torch.zeros(images), torch.zeros(bank), logit_scale=1.0, caption_ids=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("ids", "weights"),
    [
        ((2,), None),
        ((3, 4), None),
        ((3, 4), (3, 2)),
        ((3,), (3,)),
        ((2, 4), (2, 4)),
        ((3, 2, 2), (3, 2, 2)),
        ((), None),
    ],
)
def test_refuses_targets_that_do_not_fit(ids, weights):
    ids = torch.zeros(ids, dtype=torch.int64)
    weights = None if weights is None else torch.ones(weights)
    with pytest.raises(ValueError, match=r"Targets must have the shape \(3,\), or \(3, K\) with weights of the same"):
        bank_softmax(torch.zeros(3, 4), torch.zeros(9, 4), logit_scale=1.0, caption_ids=ids, caption_weights=weights)
    with pytest.raises(ValueError, match=r"Targets must have the shape \(3,\), or \(3, K\) with weights of the same"):
        swapped_margin(
            torch.zeros(3, 4), torch.zeros(9, 4), caption_ids=ids, swapped_ids=ids, margin=0.1, caption_weights=weights
        )
