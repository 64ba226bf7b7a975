import pytest
import torch
from tests import tiny
from torch import nn
from torch.nn.functional import linear, relu

from vlmkit.modules.connectors import QFormerConnector
from vlmkit.modules.text_encoders import encoder_sizes

CONFIG = tiny.smolvlm_config()  # tells which attention is computed how
SIZES = encoder_sizes(tiny.distilbert_config())


def connector(vision_size: int = 24, num_cross_heads: int | None = None, cross_frequency: int = 2) -> QFormerConnector:
    torch.manual_seed(0)
    made = QFormerConnector(CONFIG, vision_size, SIZES, 3, num_cross_heads, cross_frequency, 20).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
    return made


def test_is_a_projection_a_qformer_and_two_layers_with_a_relu_between_them():
    made, tokens = connector(), torch.randn(2, 5, 24)
    weights = made.state_dict()
    projected = linear(tokens, weights["image_projection.weight"], weights["image_projection.bias"])
    queries = made.qformer(image_states=projected).queries
    hidden = relu(linear(queries, weights["mlp.0.weight"], weights["mlp.0.bias"]))
    expected = linear(hidden, weights["mlp.2.weight"], weights["mlp.2.bias"])
    assert queries.shape == (2, 3, 16)
    assert made(tokens).shape == (2, 3, 20)
    assert (hidden == 0).float().mean() > 0.1
    torch.testing.assert_close(made(tokens), expected)


def test_projects_where_the_widths_differ_only():
    assert isinstance(connector(vision_size=16).image_projection, nn.Identity)
    assert connector(vision_size=24).image_projection.weight.shape == (16, 24)
    assert connector(vision_size=16)(torch.randn(2, 5, 16)).shape == (2, 3, 20)


def test_every_image_is_read_by_itself_whatever_its_number_of_tokens():
    made = connector()
    small, large = torch.randn(2, 5, 24), torch.randn(1, 9, 24)
    torch.testing.assert_close(made(small)[1:], made(small[1:]))
    assert made(large).shape == (1, 3, 20)
    assert (made(small)[0] - made(small)[1]).abs().max() > 1e-2
    torch.testing.assert_close(made(large), made(large.flip(dims=[1])))  # the vision tower knows where a token is


def test_heads_to_the_image_are_the_text_encoders_unless_given():
    tokens = torch.randn(1, 5, 24)
    torch.testing.assert_close(connector()(tokens), connector(num_cross_heads=SIZES.num_heads)(tokens))
    assert not torch.allclose(connector()(tokens), connector(num_cross_heads=4)(tokens), atol=1e-3)


@pytest.mark.parametrize(("frequency", "layers"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [1])])
def test_layers_that_look_at_the_image(frequency, layers):
    parts = connector(cross_frequency=frequency).qformer.layers
    assert [row for row, layer in enumerate(parts) if layer.image_attention is not None] == layers


def test_all_that_it_has_is_used():
    made = connector().train()
    made(torch.randn(2, 5, 24)).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="5 heads do not divide a width of 16"):
        connector(num_cross_heads=5)
