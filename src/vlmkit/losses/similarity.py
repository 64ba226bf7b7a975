"""Similarities divided by the temperature, which all losses start from."""

import torch
from torch import Tensor


def scaled_similarity(queries: Tensor, candidates: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """Dot products of queries `(Q, D)` with candidates `(C, D)` times the inverse temperature: `(Q, C)` in float32.

    Half precision would round logits of 1 / 0.07 to steps of 1/128 (bfloat16), and autocast would bring it back.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scale = logit_scale.float() if isinstance(logit_scale, Tensor) else logit_scale
        return scale * queries.float() @ candidates.float().T
