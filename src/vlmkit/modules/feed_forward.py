"""Feed-forward layers, which transform every token on its own."""

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them.

    Args:
        hidden_size: Width D of the tokens.
        intermediate_size: Width between the two layers.
        dropout: Dropout probability after the second layer.
        inner_dropout: Dropout probability after the activation. Defaults to `dropout`.
    """

    def __init__(
        self, hidden_size: int, *, intermediate_size: int, dropout: float = 0.0, inner_dropout: float | None = None
    ):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(dropout if inner_dropout is None else inner_dropout)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map `(..., hidden_size)` to `(..., hidden_size)`."""
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(hidden_states)))))


class GatedMLP(nn.Module):
    """SwiGLU: a linear layer whose outputs are gated by a second one, followed by a third, all without biases.

    Computes `down_proj(silu(gate_proj(x)) * up_proj(x))`.

    Args:
        input_size: Width of the input tokens.
        intermediate_size: Number of hidden units.
        output_size: Width of the output tokens.

    References:
        Shazeer, "GLU Variants Improve Transformer" (arXiv:2002.05202).
    """

    def __init__(self, input_size: int, *, intermediate_size: int, output_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(input_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(input_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, output_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map `(..., input_size)` to `(..., output_size)`."""
        return self.down_proj(nn.functional.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))
