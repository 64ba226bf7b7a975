"""Similarities divided by the temperature, the logits of all losses."""

import torch
from torch import Tensor


def scaled_similarity(queries: Tensor, candidates: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """Compute the dot products of queries `(Q, D)` and candidates `(C, D)`, multiplied by the inverse temperature.

    The result `(Q, C)` is in float32, also under autocast: bfloat16 would round logits of 1 / 0.07 to multiples of
    1/16.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scale = logit_scale.float() if isinstance(logit_scale, Tensor) else logit_scale
        return scale * queries.float() @ candidates.float().T
