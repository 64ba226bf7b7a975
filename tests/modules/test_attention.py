import pytest
import torch
from tests import tiny
from torch import nn

from vlmkit.modules.attention import Attention, AttentionBlock, FeedForwardBlock
from vlmkit.modules.feed_forward import FeedForward

WIDTH, HEADS = 16, 4


def config(implementation: str = "eager"):
    return tiny.vision_config(attn_implementation=implementation)


def tokens(number: int = 5) -> torch.Tensor:
    return torch.randn(2, number, WIDTH)


def attention_and_torchs(
    implementation: str = "eager", dropout: float = 0.0
) -> tuple[Attention, nn.MultiheadAttention]:
    """Two with the same weights, biases included."""
    ours = Attention(config(implementation), hidden_size=WIDTH, num_heads=HEADS, dropout=dropout).eval()
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dropout, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    for name, weight, bias in zip(
        ("q_proj", "k_proj", "v_proj"), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
    ):
        getattr(ours, name).load_state_dict({"weight": weight, "bias": bias})
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


@pytest.fixture(params=["eager", "sdpa"])
def implementation(request) -> str:
    return request.param


class TestAttention:
    def test_to_itself_is_torchs(self, implementation):
        ours, theirs = attention_and_torchs(implementation)
        x = tokens()
        torch.testing.assert_close(ours(x)[0], theirs(x, x, x)[0])

    def test_to_others_is_torchs(self, implementation):
        ours, theirs = attention_and_torchs(implementation)
        x, keys, values = tokens(3), tokens(7), tokens(7)
        torch.testing.assert_close(ours(x, ours.key_values(keys, values))[0], theirs(x, keys, values)[0])
        torch.testing.assert_close(ours(x, ours.key_values(keys))[0], theirs(x, keys, keys)[0])

    def test_keys_and_values_serve_any_number_of_calls(self, implementation):
        ours, theirs = attention_and_torchs(implementation)
        others, calls = tokens(7), [tokens(3), tokens(1)]
        key_values = ours.key_values(others)
        assert [states.shape for states in key_values] == [(2, HEADS, 7, WIDTH // HEADS)] * 2
        for x in calls:
            torch.testing.assert_close(ours(x, key_values)[0], theirs(x, others, others)[0])

    def test_a_mask_is_added_to_the_scores(self, implementation):
        ours, theirs = attention_and_torchs(implementation)
        x = tokens()
        causal = torch.full((5, 5), -torch.inf).triu(1)
        masked, _ = ours(x, attention_mask=causal.expand(2, 1, 5, 5))
        torch.testing.assert_close(masked, theirs(x, x, x, attn_mask=causal)[0])

        bias = torch.randn(2, 1, 5, 5)
        expected = theirs(x, x, x, attn_mask=bias.expand(2, HEADS, 5, 5).flatten(0, 1))[0]
        torch.testing.assert_close(ours(x, attention_mask=bias)[0], expected)

    def test_sees_later_tokens_without_a_mask(self, implementation):
        ours, _ = attention_and_torchs(implementation)
        x = tokens()
        assert not torch.allclose(ours(x)[0][:, :-1], ours(x[:, :-1])[0])

    def test_probabilities_are_returned_where_asked_for(self, implementation):
        ours, theirs = attention_and_torchs(implementation)
        x, others = tokens(3), tokens(7)
        outputs, weights = ours(x, ours.key_values(others), output_attentions=True)
        expected, per_head = theirs(x, others, others, average_attn_weights=False)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(weights, per_head)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 3))
        assert (ours(x)[1] is None) == (implementation == "sdpa")

    def test_dropout_falls_on_probabilities_in_training_only(self, implementation):
        ours, _ = attention_and_torchs(implementation, dropout=0.5)
        x = tokens()
        torch.testing.assert_close(ours(x)[0], ours(x)[0], rtol=0, atol=0)
        ours.train()
        assert not torch.allclose(ours(x)[0], ours(x)[0])
        _, weights = ours(x, output_attentions=True)
        assert 0.2 < (weights == 0).float().mean() < 0.8

    def test_the_implementation_is_looked_up_at_each_call(self):
        ours, _ = attention_and_torchs("eager")
        assert ours(tokens())[1] is not None
        ours.config._attn_implementation = "sdpa"
        assert ours(tokens())[1] is None

    def test_half_precision(self, implementation):
        ours, _ = attention_and_torchs(implementation)
        x = tokens()
        expected = ours(x)[0]
        outputs = ours.to(torch.bfloat16)(x.to(torch.bfloat16))[0]
        assert outputs.dtype == torch.bfloat16
        torch.testing.assert_close(outputs.float(), expected, rtol=0.1, atol=0.05)

    def test_may_have_no_biases(self, implementation):
        ours = Attention(config(implementation), hidden_size=WIDTH, num_heads=HEADS, bias=False).eval()
        theirs = nn.MultiheadAttention(WIDTH, HEADS, bias=False, batch_first=True).eval()
        projections = zip((ours.q_proj, ours.k_proj, ours.v_proj), theirs.in_proj_weight.chunk(3), strict=True)
        for projection, weight in projections:
            projection.load_state_dict({"weight": weight})
        ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
        x, others = tokens(3), tokens(7)
        torch.testing.assert_close(ours(x, ours.key_values(others))[0], theirs(x, others, others)[0])

    def test_heads_that_do_not_divide_the_width_are_rejected(self):
        with pytest.raises(ValueError, match=r"must divide the width 16, but got 3 heads\. Choose a divisor"):
            Attention(config(), hidden_size=WIDTH, num_heads=3)


class TestBlocks:
    @pytest.mark.parametrize("others", [None, 7])
    def test_norm_before_attention(self, others):
        block = AttentionBlock(config(), hidden_size=WIDTH, num_heads=HEADS, norm="pre", eps=1e-3)
        nn.init.normal_(block.norm.weight)
        x = tokens()
        key_values = others and block.attention.key_values(tokens(others))
        normed = nn.functional.layer_norm(x, (WIDTH,), block.norm.weight, block.norm.bias, 1e-3)
        torch.testing.assert_close(block(x, key_values)[0], x + block.attention(normed, key_values)[0])

    @pytest.mark.parametrize("others", [None, 7])
    def test_norm_after_attention(self, others):
        block = AttentionBlock(config(), hidden_size=WIDTH, num_heads=HEADS, norm="post", eps=1e-3)
        nn.init.normal_(block.norm.weight)
        x = tokens()
        key_values = others and block.attention.key_values(tokens(others))
        summed = x + block.attention(x, key_values)[0]
        expected = nn.functional.layer_norm(summed, (WIDTH,), block.norm.weight, block.norm.bias, 1e-3)
        torch.testing.assert_close(block(x, key_values)[0], expected)

    def test_mask_and_probabilities_pass_through(self):
        block = AttentionBlock(config("sdpa"), hidden_size=WIDTH, num_heads=HEADS, norm="pre", eps=1e-6)
        mask = torch.full((5, 5), -torch.inf).triu(1).expand(2, 1, 5, 5)
        _, weights = block(tokens(), attention_mask=mask, output_attentions=True)
        assert weights.shape == (2, HEADS, 5, 5)
        assert weights.triu(1).count_nonzero() == 0
        assert block(tokens())[1] is None

    @pytest.mark.parametrize("norm", ["pre", "post"])
    def test_feed_forward(self, norm):
        block = FeedForwardBlock(WIDTH, intermediate_size=24, norm=norm, eps=1e-3)
        x = tokens()
        first, second = block.mlp.fc1, block.mlp.fc2

        def layer(states: torch.Tensor) -> torch.Tensor:
            hidden = states @ first.weight.T + first.bias
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))  # the exact GELU
            return hidden @ second.weight.T + second.bias

        def normalize(states: torch.Tensor) -> torch.Tensor:
            centred = states - states.mean(-1, keepdim=True)
            return centred / (states.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()

        assert first.weight.shape == (24, WIDTH)
        expected = x + layer(normalize(x)) if norm == "pre" else normalize(x + layer(x))
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)

    def test_dropout_within_a_feed_forward_layer_may_be_another(self):
        assert [
            part.p
            for part in FeedForward(WIDTH, intermediate_size=24, dropout=0.3).children()
            if isinstance(part, nn.Dropout)
        ] == [0.3, 0.3]
        block = FeedForwardBlock(WIDTH, intermediate_size=24, norm="post", eps=1e-6, dropout=0.3, inner_dropout=0.0)
        assert [part.p for part in block.mlp.children() if isinstance(part, nn.Dropout)] == [0.0, 0.3]

    def test_dropout_of_the_result_of_attention(self):
        block = AttentionBlock(config(), hidden_size=WIDTH, num_heads=HEADS, norm="pre", eps=1e-6, output_dropout=0.5)
        x = tokens(50)
        added = block(x)[0] - x
        assert 0.3 < (added == 0).float().mean() < 0.7
        torch.testing.assert_close(block.eval()(x)[0], block(x)[0], rtol=0, atol=0)

    def test_an_unknown_norm_is_rejected(self):
        for make in (lambda norm: AttentionBlock(config(), hidden_size=WIDTH, num_heads=HEADS, norm=norm, eps=1e-6),
                     lambda norm: FeedForwardBlock(WIDTH, intermediate_size=24, norm=norm, eps=1e-6)):  # fmt: skip
            with pytest.raises(ValueError, match="`norm` must be one of 'pre', 'post', but got 'prae'"):
                make("prae")

    def test_heads_that_do_not_divide_the_width_are_rejected(self):
        with pytest.raises(ValueError, match="must divide the width 16, but got 5 heads"):
            AttentionBlock(config(), hidden_size=WIDTH, num_heads=5, norm="pre", eps=1e-6)
