"""Private parts of `transformers.Trainer`."""

from torch import nn
from transformers import Trainer


def decay_parameter_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters to which `Trainer` applies weight decay."""
    return set(Trainer.get_decay_parameter_names(None, model))  # the method does not use its trainer
