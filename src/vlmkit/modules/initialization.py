"""Initialisations that transformers does not do by itself."""

from torch import nn

from vlmkit.compat.initialized_weights import mark_as_initialized


def initialize_xavier(module: nn.Module) -> None:
    """Give linear and convolutional layers Xavier-uniform weights and zero biases, for good.

    transformers initialises every layer once more when the model around it is complete, except for marked ones.

    Args:
        module: whose layers are initialised; those on the meta device, whose weights are about to be loaded, are not.

    References:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not layer.weight.is_meta:
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            mark_as_initialized(layer)
