"""The temperature of contrastive logits, fixed by the configuration or learned."""

import math

import torch
from torch import Tensor, nn

# Below it, training becomes unstable (CLIP, arXiv:2103.00020, section 2.5).
MIN_LEARNED_TEMPERATURE = 0.01


def check_temperature(temperature: float, learned: bool) -> None:
    """Check a configured temperature.

    Raises:
        ValueError: it is not positive, or a learned one would start below its limit.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; logits are divided by it, so give a positive number")
    if learned and temperature < MIN_LEARNED_TEMPERATURE:
        raise ValueError(
            f"temperature is {temperature}, but a learned one is kept above {MIN_LEARNED_TEMPERATURE}; start "
            "there or higher, or set learn_temperature=False"
        )


def initial_logit_scale(temperature: float) -> float:
    """Logarithm of the inverse temperature: where a learned `logit_scale` starts."""
    return math.log(1 / temperature)


def inverse_temperature(logit_scale: nn.Parameter | None, temperature: float) -> Tensor | float:
    """What cosine similarities are multiplied by.

    Args:
        logit_scale: `(1,)`, the learned logarithm; `None` if the temperature is fixed.
        temperature: the fixed one.

    Returns:
        A number, or a float32 tensor `(1,)`, at most 1 / 0.01, whose gradient does not vanish beyond that limit.

    Example:
        >>> round(inverse_temperature(None, 0.07), 2)
        14.29
    """
    if logit_scale is None:
        return 1 / temperature
    scale = logit_scale.float().exp()
    # The limit holds forward only: with a gradient of zero, a scale beyond it would never come back.
    return scale + (scale.clamp(max=1 / MIN_LEARNED_TEMPERATURE) - scale).detach()


def new_logit_scale(learned: bool) -> nn.Parameter | None:
    """The parameter of a learned temperature, not yet initialised; a fixed one is the configuration's alone."""
    return nn.Parameter(torch.empty(1)) if learned else None  # shape (1,), not (): FSDP2 shards no scalars
