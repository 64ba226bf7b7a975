import torch
from torch.nn.functional import linear, silu

from vlmkit.modules.feed_forward import FeedForward, GatedMLP

WIDTH = 16


def test_dropout_follows_the_activation_and_the_second_layer():
    layer = FeedForward(WIDTH, intermediate_size=24, dropout=0.5)
    assert [type(part).__name__ for part in layer.children()] == ["Linear", "GELU", "Dropout", "Linear", "Dropout"]
    assert 0.3 < (layer(torch.randn(2, 50, WIDTH)) == 0).float().mean() < 0.7
    assert torch.equal(layer.eval()(x := torch.randn(2, 5, WIDTH)), layer(x))


def test_gated_mlp():
    made, x = GatedMLP(5, intermediate_size=7, output_size=3), torch.randn(2, 4, 5)
    weights = made.state_dict()
    hidden = silu(linear(x, weights["gate_proj.weight"])) * linear(x, weights["up_proj.weight"])
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "gate_proj.weight": (7, 5), "up_proj.weight": (7, 5), "down_proj.weight": (3, 7),
    }  # fmt: skip
    torch.testing.assert_close(made(x), linear(hidden, weights["down_proj.weight"]))
