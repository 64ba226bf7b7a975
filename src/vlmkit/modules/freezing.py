"""Freezing that survives saving, loading and training mode."""

from typing import Any

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

    def train(self, mode: bool = True) -> "Freezable":
        """Set the training mode; if frozen, stay in evaluation mode (no dropout, no batch-norm drift)."""
        return super().train(mode and not self.frozen)


class FreezableMixin:
    """For models: `from_pretrained`, which makes every parameter trainable, freezes what the configuration freezes."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, and freeze what is configured to stay as it is."""
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for module in model.modules():
            if isinstance(module, Freezable):
                module.freeze()
        return loaded
