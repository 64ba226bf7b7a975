"""The weights of a checkpoint under the names that they have in a model."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor


def original_names(
    names: Iterable[str], modules: Mapping[str, str], packed: re.Pattern
) -> dict[str, tuple[str, int | None]]:
    r"""What the original calls the weights of a model.

    torch's attention keeps the projections of queries, keys and values in one.

    Args:
        names: of the model's weights.
        modules: beginnings of these, and what the original has in their place; of several, the longest counts.
        packed: matches, in the original's way but for `q_proj.weight`, those that lie in one such projection, with
            three groups: the attention, `q`, `k` or `v`, and `weight` or `bias`.

    Returns:
        For each name the original's, and which third of it is meant, if not the whole.

    Example:
        >>> packed = re.compile(r"(attn)\.([qkv])_proj\.(weight|bias)")
        >>> original_names(["layers.0.k_proj.bias"], {"layers.0.": "attn."}, packed)
        {'layers.0.k_proj.bias': ('attn.in_proj_bias', 1)}
    """
    origins: dict[str, tuple[str, int | None]] = {}
    for name in names:
        start = max((module for module in modules if name.startswith(module)), key=len)
        original = modules[start] + name.removeprefix(start)
        match = packed.fullmatch(original)
        origins[name] = (f"{match[1]}.in_proj_{match[3]}", "qkv".index(match[2])) if match else (original, None)
    return origins


def renamed_weights(
    source: Path,
    weights: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    origins: Mapping[str, tuple[str, int | None]],
    advice: str,
) -> dict[str, Tensor]:
    """The checkpoint under a model's names, after a check of the sizes.

    Args:
        source: where the checkpoint lies.
        weights: all that the model needs, and maybe more.
        model: its weights, for their sizes.
        origins: of [`original_names`].
        advice: what to give if the sizes do not fit.

    Raises:
        ValueError: a weight has another size.
    """
    renamed = {}
    for name, (original, third) in origins.items():
        value, shape = weights[original], list(model[name].shape)
        if third is not None:
            shape[0] *= 3
        if list(value.shape) != shape:
            raise ValueError(
                f"{original} is {tuple(value.shape)} in {source}, but the configuration needs {tuple(shape)}; {advice}"
            )
        renamed[name] = value if third is None else value.chunk(3)[third]
    return renamed
