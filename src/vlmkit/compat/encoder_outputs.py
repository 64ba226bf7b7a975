"""Image features that `generate` computes once and passes to every step.

transformers 5.23 and 5.24 repeat and slice them for beam search under the argument `mm_encoder_outputs`, which is not
part of the documented interface of `generate`.
"""

from copy import copy
from typing import Any

from transformers.utils import ModelOutput


def pop_encoder_outputs(kwargs: dict[str, Any]) -> ModelOutput | None:
    """Remove precomputed image features from the keywords of `generate` and return them.

    The features are copied, because beam search repeats them in place.
    """
    given = kwargs.pop("mm_encoder_outputs", None)
    return copy(given["image"]) if given else None


def encoder_outputs_argument(features: ModelOutput) -> dict[str, Any]:
    """Return the keyword that passes image features to `generate`."""
    return {"mm_encoder_outputs": {"image": features}}
