"""Context manager for inference with a model that may be in training mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode within a `with` block.

    At the end of the block, also after an error, the module and its submodules are set to the previous mode of the
    module.

    Args:
        module: Model or part of a model.

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
