"""Weight initialization that replaces the default of transformers."""

from torch import nn

from vlmkit.compat.initialized_weights import mark_as_initialized


def initialize_xavier(module: nn.Module) -> None:
    """Initialize linear and convolutional layers with Xavier-uniform weights and zero biases.

    transformers initializes all layers again once the model is complete, except for those marked as initialized.

    Args:
        module: Module that contains the layers. Layers on the meta device are skipped, because their weights are
            about to be loaded.

    References:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not layer.weight.is_meta:
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            mark_as_initialized(layer)
