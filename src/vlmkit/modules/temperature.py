"""The temperature of contrastive logits, fixed by the configuration or learned."""

import math

import torch
from torch import Tensor, nn

# Training becomes unstable below this temperature (CLIP, arXiv:2103.00020, section 2.5).
MIN_LEARNED_TEMPERATURE = 0.01


def check_temperature(temperature: float, learned: bool) -> None:
    """Check the temperature of a configuration.

    Args:
        temperature: Fixed temperature, or initial value of a learned one.
        learned: Whether the temperature is learned.

    Raises:
        ValueError: If the temperature is not positive, or a learned one starts below `MIN_LEARNED_TEMPERATURE`.
    """
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, but got {temperature}.")
    if learned and temperature < MIN_LEARNED_TEMPERATURE:
        raise ValueError(
            f"`temperature` must be at least {MIN_LEARNED_TEMPERATURE} if it is learned, but got {temperature}. "
            "Increase it, or set `learn_temperature=False`."
        )


def initial_logit_scale(temperature: float) -> float:
    """Return the initial value of a learned `logit_scale`, the logarithm of the inverse temperature."""
    return math.log(1 / temperature)


def inverse_temperature(logit_scale: nn.Parameter | None, temperature: float) -> Tensor | float:
    """Return the factor that turns cosine similarities into logits.

    Args:
        logit_scale: `(1,)`, the learned logarithm of the factor, or `None` if the temperature is fixed.
        temperature: Fixed temperature, which is not used if `logit_scale` is given.

    Returns:
        A number, or a float32 tensor `(1,)`. A learned factor is clamped to 100, but its gradient is not.

    Example:
        >>> round(inverse_temperature(None, 0.07), 2)
        14.29
    """
    if logit_scale is None:
        return 1 / temperature
    scale = logit_scale.float().exp()
    # The gradient is not clamped, because a scale above the limit could otherwise never decrease.
    return scale + (scale.clamp(max=1 / MIN_LEARNED_TEMPERATURE) - scale).detach()


def new_logit_scale(learned: bool) -> nn.Parameter | None:
    """Return the uninitialized parameter of a learned temperature, or `None` if the temperature is fixed."""
    return nn.Parameter(torch.empty(1)) if learned else None  # shape (1,), because FSDP2 cannot shard scalars
