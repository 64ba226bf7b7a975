"""Freezing that survives training mode."""

from torch import nn


class Freezable(nn.Module):
    """A module that can be frozen for good: no gradients, and evaluation mode even while the rest trains.

    Args:
        frozen: whether its parameters stay as they are.
    """

    def __init__(self, frozen: bool = False):
        super().__init__()
        self.frozen = frozen

    def freeze(self) -> None:
        """Take the gradients off, if frozen."""
        if self.frozen:
            self.requires_grad_(False)

    @property
    def is_trained(self) -> bool:
        """Whether any parameter takes gradients, an adapter's in a frozen module included."""
        return any(p.requires_grad for p in self.parameters())

    def train(self, mode: bool = True) -> "Freezable":
        """Set the training mode; if frozen, stay in evaluation mode (no dropout, no batch-norm drift)."""
        return super().train(mode and not self.frozen)
