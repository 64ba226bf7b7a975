"""Running a model that may be in training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and back into its own mode in the end, even after an interruption.

    Example:
        >>> dropout = nn.Dropout().train()
        >>> with evaluation_mode(dropout):
        ...     print(dropout.training)
        False
        >>> dropout.training
        True
    """
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
