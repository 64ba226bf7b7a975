"""Attention and feed-forward sub-layers, each with its residual connection and a norm before or after it."""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlmkit.modules.feed_forward import FeedForward
from vlmkit.validation import check_choice

# Keys and values, both `(B, heads, N, D / heads)`.
KeyValues = tuple[Tensor, Tensor]


def additive_attention_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean attention mask into one that is added to the attention scores.

    Args:
        mask: Booleans of any shape, true where a token is attended to.
        dtype: Data type of the scores.

    Returns:
        A tensor of the same shape: 0 where `mask` is true, minus infinity elsewhere.

    Example:
        >>> additive_attention_mask(torch.tensor([True, False]), torch.float32)
        tensor([0., -inf])
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))


class Attention(nn.Module):
    """Multi-head self-attention or cross-attention, computed by the attention implementation of the model.

    Args:
        config: Configuration of the model. Only `_attn_implementation` is read, in each call.
        hidden_size: Width D of the tokens, a multiple of `num_heads`.
        num_heads: Number of attention heads.
        dropout: Dropout probability of the attention weights.
        bias: Whether the four projections have biases.

    Raises:
        ValueError: If `num_heads` does not divide `hidden_size`.
    """

    is_causal = False  # transformers' attention functions read it

    def __init__(
        self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int, dropout: float = 0.0, bias: bool = True
    ):
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(
                f"The number of attention heads must divide the width {hidden_size}, but got {num_heads} heads. "
                "Choose a divisor of the width."
            )
        self.config = config
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=bias)

    def key_values(self, key_states: Tensor, value_states: Tensor | None = None) -> KeyValues:
        """Project tokens to keys and values, which any number of calls can reuse.

        Args:
            key_states: `(B, N, D)`.
            value_states: `(B, N, D)`. Defaults to `key_states`.
        """
        value_states = key_states if value_states is None else value_states
        return self._heads(self.k_proj(key_states)), self._heads(self.v_proj(value_states))

    def forward(
        self,
        hidden_states: Tensor,
        key_values: KeyValues | None = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to other tokens, or to the tokens themselves.

        Args:
            hidden_states: `(B, T, D)`, the tokens that attend.
            key_values: Output of [`Attention.key_values`]. Defaults to the keys and values of `hidden_states`
                (self-attention).
            attention_mask: `(B, 1, T, N)`, added to the scores.
            output_attentions: Whether to return attention weights, which runs the eager implementation.

        Returns:
            `(B, T, D)`, and the attention weights `(B, heads, T, N)` or `None`.
        """
        keys, values = self.key_values(hidden_states) if key_values is None else key_values
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, _eager_attention)
        outputs, weights = attend(
            self,
            self._heads(self.q_proj(hidden_states)),
            keys,
            values,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(outputs.flatten(2)), weights

    def _heads(self, states: Tensor) -> Tensor:
        """Split `(B, T, D)` into heads, `(B, heads, T, D / heads)`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class _Residual(nn.Module):
    """Base class of layers with a residual connection and a norm, before the layer or after the sum."""

    def __init__(self, hidden_size: int, *, norm: Literal["pre", "post"], eps: float):
        check_choice("norm", norm, ("pre", "post"))
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.norm_first = norm == "pre"

    def _normalize_before(self, hidden_states: Tensor) -> Tensor:
        return self.norm(hidden_states) if self.norm_first else hidden_states

    def _add_residual(self, hidden_states: Tensor, outputs: Tensor) -> Tensor:
        return hidden_states + outputs if self.norm_first else self.norm(hidden_states + outputs)


class AttentionBlock(_Residual):
    """Attention with a residual connection: `x + attention(norm(x))`, or `norm(x + attention(x))`.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of the tokens.
        num_heads: See [`Attention`].
        norm: `"pre"` to normalize the input of the attention, `"post"` to normalize the sum.
        eps: Epsilon of the layer norm.
        dropout: See [`Attention`].
        output_dropout: Dropout probability of the attention output, before it is added.

    Raises:
        ValueError: If `norm` is unknown, or `num_heads` does not divide `hidden_size`.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        hidden_size: int,
        num_heads: int,
        norm: Literal["pre", "post"],
        eps: float,
        dropout: float = 0.0,
        output_dropout: float = 0.0,
    ):
        super().__init__(hidden_size, norm=norm, eps=eps)
        self.attention = Attention(config, hidden_size=hidden_size, num_heads=num_heads, dropout=dropout)
        self.dropout = nn.Dropout(output_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        key_values: KeyValues | None = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend. Arguments and outputs are those of [`Attention.forward`]."""
        attended, weights = self.attention(
            self._normalize_before(hidden_states), key_values, attention_mask, output_attentions
        )
        return self._add_residual(hidden_states, self.dropout(attended)), weights


class FeedForwardBlock(_Residual):
    """A feed-forward layer with a residual connection: `x + layer(norm(x))`, or `norm(x + layer(x))`.

    Args:
        hidden_size: Width D of the tokens.
        intermediate_size: See [`FeedForward`].
        norm: `"pre"` to normalize the input of the layer, `"post"` to normalize the sum.
        eps: Epsilon of the layer norm.
        dropout: See [`FeedForward`].
        inner_dropout: See [`FeedForward`].

    Raises:
        ValueError: If `norm` is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        intermediate_size: int,
        norm: Literal["pre", "post"],
        eps: float,
        dropout: float = 0.0,
        inner_dropout: float | None = None,
    ):
        super().__init__(hidden_size, norm=norm, eps=eps)
        self.mlp = FeedForward(
            hidden_size, intermediate_size=intermediate_size, dropout=dropout, inner_dropout=inner_dropout
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform every token, `(B, T, D)` to `(B, T, D)`."""
        return self._add_residual(hidden_states, self.mlp(self._normalize_before(hidden_states)))


def _eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Compute attention and return its weights."""
    scores = (query @ key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights
