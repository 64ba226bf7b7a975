import pytest
import torch

from vlmkit.modules import pool_tokens

TOKENS = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("mean", [1, 1, 1, 0], 7 / 3),
        ("mean", [0, 1, 1, 1], 14 / 3),
        ("cls", [1, 1, 0, 0], 1.0),
        ("cls", [0, 0, 1, 1], 4.0),
        ("last", [1, 1, 0, 0], 2.0),
        ("last", [0, 0, 1, 1], 8.0),
        ("mean", [0, 0, 0, 0], 0.0),
        ("last", [0, 0, 0, 0], 0.0),
    ],
)
def test_pools_attended_tokens_only(pooling, mask, expected):
    pooled = pool_tokens(TOKENS, torch.tensor([mask]), pooling=pooling)
    assert pooled.shape == (1, 1)
    assert pooled.item() == pytest.approx(expected)


def test_without_a_mask_every_token_counts():
    assert pool_tokens(TOKENS).item() == pytest.approx(15 / 4)


def test_padding_gets_no_gradient():
    tokens = TOKENS.clone().requires_grad_()
    pool_tokens(tokens, torch.tensor([[1, 1, 0, 0]])).sum().backward()
    assert tokens.grad[0, :, 0].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_unknown_pooling_names_the_nearest():
    with pytest.raises(ValueError, match=r"'maen'.*Did you mean 'mean'"):
        pool_tokens(TOKENS, pooling="maen")
