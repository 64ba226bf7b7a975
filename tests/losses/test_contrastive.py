import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from vlmkit.losses import info_nce, sigmoid_loss


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1).to(dtype)


def test_equal_embeddings_give_log_batch():
    zeros = torch.zeros(5, 4)
    assert info_nce(zeros, zeros, logit_scale=1 / 0.07).item() == pytest.approx(math.log(5))
    assert sigmoid_loss(zeros, zeros, logit_scale=10.0).item() == pytest.approx(5 * math.log(2))


def test_info_nce_is_clips_loss():
    images, texts = unit(6, 8), unit(6, 8)
    expected = image_text_contrastive_loss(14.0 * texts @ images.T)
    torch.testing.assert_close(info_nce(images, texts, logit_scale=14.0), expected)


def test_sigmoid_loss_by_hand():
    images = texts = torch.eye(2)
    # Two matching pairs with logit 3 - 1, two others with logit -1.
    expected = (2 * math.log1p(math.exp(-2)) + 2 * math.log1p(math.exp(-1))) / 2
    assert sigmoid_loss(images, texts, logit_scale=3.0, logit_bias=-1.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
def test_different_groups_change_nothing(loss):
    images, texts = unit(4, 8), unit(4, 8)
    groups = torch.tensor([3, 1, 7, 2])
    torch.testing.assert_close(
        loss(images, texts, logit_scale=5.0), loss(images, texts, logit_scale=5.0, group_ids=groups)
    )


def test_own_group_is_left_out_of_the_denominator():
    images, texts = unit(3, 8), unit(3, 8)
    logits = 5.0 * images @ texts.T
    groups = torch.tensor([0, 0, 1])

    def row(logits):
        kept = [[0, 2], [1, 2], [0, 1, 2]]
        return sum(logits[i, kept[i]].logsumexp(0) - logits[i, i] for i in range(3)) / 3

    torch.testing.assert_close(
        info_nce(images, texts, logit_scale=5.0, group_ids=groups), (row(logits) + row(logits.T)) / 2
    )


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
def test_own_group_gets_no_gradient_as_a_negative(loss):
    images, texts = unit(2, 4), unit(2, 4).requires_grad_()
    alone = loss(images[:1], texts[:1], logit_scale=5.0)
    grouped = loss(images, texts, logit_scale=5.0, group_ids=torch.tensor([4, 4]))
    [grad] = torch.autograd.grad(grouped, texts)
    # Only its own pair acts on a text: its gradient lies along its own image.
    cosine = F.cosine_similarity(grad, images, dim=-1).abs()
    assert alone.isfinite()
    assert torch.all((grad.norm(dim=-1) < 1e-6) | (cosine > 1 - 1e-5))


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32(loss, dtype):
    images, texts = unit(4, 8, dtype=dtype), unit(4, 8, dtype=dtype)
    scale = torch.tensor([100.0], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(images, texts, logit_scale=scale)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(images.float(), texts.float(), logit_scale=100.0))


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
def test_learns_the_scale(loss):
    scale = torch.tensor([2.0], requires_grad=True)
    loss(unit(4, 8), unit(4, 8), logit_scale=scale).backward()
    assert scale.grad.abs().item() > 0


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
def test_refuses_what_is_no_pair(loss):
    with pytest.raises(ValueError, match=r"`image_embeds` and `text_embeds` must have the same shape \(B, D\), but"):
        loss(unit(3, 4), unit(2, 4), logit_scale=1.0)
    with pytest.raises(ValueError, match="same shape"):
        loss(unit(3, 4), unit(3, 5), logit_scale=1.0)
    with pytest.raises(ValueError, match="group_ids"):
        loss(unit(3, 4), unit(3, 4), logit_scale=1.0, group_ids=torch.tensor([1, 2]))
