"""Modules that stay frozen when the model is set to training mode."""

from torch import nn


class Freezable(nn.Module):
    """Base class of modules that can be frozen: without gradients, and always in evaluation mode.

    Args:
        frozen: Whether the module is frozen.
    """

    def __init__(self, frozen: bool = False):
        super().__init__()
        self.frozen = frozen

    def freeze(self) -> None:
        """Disable the gradients of all parameters if the module is frozen."""
        if self.frozen:
            self.requires_grad_(False)

    @property
    def is_trained(self) -> bool:
        """Return whether any parameter requires a gradient, such as those of an adapter in a frozen module."""
        return any(p.requires_grad for p in self.parameters())

    def train(self, mode: bool = True) -> "Freezable":
        """Set the training mode. A frozen module stays in evaluation mode, without dropout or batch statistics."""
        return super().train(mode and not self.frozen)
