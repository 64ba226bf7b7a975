"""Conversion of weights from the names in an original checkpoint to the names in a model."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor


def original_names(
    names: Iterable[str], *, modules: Mapping[str, str], packed: re.Pattern
) -> dict[str, tuple[str, int | None]]:
    r"""Map the weight names of a model to the names in the original checkpoint.

    `torch.nn.MultiheadAttention` packs the projections of queries, keys and values in one weight.

    Args:
        names: Weight names of the model.
        modules: Maps prefixes of these names to prefixes of the original. The longest matching prefix is used.
        packed: Pattern of the original names that are part of a packed projection, before packing. Its three groups
            are the name of the attention module, `q`, `k` or `v`, and `weight` or `bias`.

    Returns:
        For each name, the original name, and the index of its third of a packed projection (otherwise `None`).

    Example:
        >>> packed = re.compile(r"(attn)\.([qkv])_proj\.(weight|bias)")
        >>> original_names(["layers.0.k_proj.bias"], modules={"layers.0.": "attn."}, packed=packed)
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
    *,
    weights: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    origins: Mapping[str, tuple[str, int | None]],
    advice: str,
) -> dict[str, Tensor]:
    """Rename the weights of a checkpoint, and check their sizes.

    Args:
        source: File of the checkpoint, for the message.
        weights: Weights of the checkpoint. They may include weights that the model does not need.
        model: State dict of the model, for the sizes.
        origins: Result of [`original_names`].
        advice: Advice for the message if the sizes differ, as a sentence.

    Returns:
        The weights under the names of the model.

    Raises:
        ValueError: If a weight has another size.
    """
    renamed = {}
    for name, (original, third) in origins.items():
        value, shape = weights[original], list(model[name].shape)
        if third is not None:
            shape[0] *= 3
        if list(value.shape) != shape:
            raise ValueError(
                f"{original} in {source} must have the shape {tuple(shape)}, but got {tuple(value.shape)}. {advice}"
            )
        renamed[name] = value if third is None else value.chunk(3)[third]
    return renamed
