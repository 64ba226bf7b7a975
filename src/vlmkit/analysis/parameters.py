"""Parameter counts of models and their components."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Count the parameters of a module on any device, including the meta device.

    Args:
        module: Any module.
        trainable_only: Whether to count only parameters that require a gradient.

    Example:
        >>> count_parameters(nn.Linear(2, 3))
        9
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@dataclass(frozen=True)
class DualEncoderParameters:
    """Parameter counts of a dual encoder.

    Args:
        loaded: Parameters of both complete backbones, as the original system loads them, and of the projection.
        computed: Parameters that a forward pass uses. If only the token embeddings of a text model are used, its layers
            are not counted.
        trained: Parameters that require gradients.
    """

    loaded: int
    computed: int
    trained: int


def dual_encoder_parameters(model: PreTrainedModel) -> DualEncoderParameters:
    """Count the parameters of a dual encoder.

    "Which side should we scale?" calls ViT-L with GPT-2-medium a balanced model of 660M parameters. Since it uses only
    the token embeddings of GPT-2, a forward pass involves 356M parameters of the backbones and 1M of the projection.

    Args:
        model: Model with `text_tower` and `config.text_config` on any device, including the meta device.

    Example:
        >>> from vlmkit import DualEncoderConfig, DualEncoderModel
        >>> with torch.device("meta"):
        ...     model = DualEncoderModel(DualEncoderConfig())
        >>> dual_encoder_parameters(model).trained == count_parameters(model, trainable_only=True)
        True
    """
    with torch.device("meta"):
        text_model = AutoModel.from_config(model.config.text_config, attn_implementation="eager")
    computed = count_parameters(model)
    return DualEncoderParameters(
        loaded=computed - count_parameters(model.text_tower) + count_parameters(text_model),
        computed=computed,
        trained=count_parameters(model, trainable_only=True),
    )


@dataclass(frozen=True)
class ComponentParameters:
    """Parameter counts of a component of a model.

    Args:
        name: Name of the component, or "total" for the whole model.
        total: Number of parameters that no earlier component shares.
        trainable: Number of these parameters that require a gradient.
        share: `total` as a fraction of the parameters of the whole model.
    """

    name: str
    total: int
    trainable: int
    share: float


def component_parameters(model: nn.Module) -> list[ComponentParameters]:
    """Count the parameters of each component of a model.

    The components are the direct children of the model, after parameters of the model itself. For a model with a head,
    the children of the headless model come first. Children without parameters are omitted. Shared parameters, such as
    tied embeddings, are counted in the first component only, so that the components add up to the total. The original
    weights of modules that peft trains completely are not counted.

    Args:
        model: Any module on any device, including the meta device.

    Returns:
        One row for each component, and the total.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1).requires_grad_(False))
        >>> [(row.name, row.total, row.trainable) for row in component_parameters(model)]
        [('0', 9, 9), ('2', 4, 0), ('total', 13, 9)]
    """
    parts = {name: [parameter] for name, parameter in model.named_parameters(recurse=False)}
    children = dict(model.named_children())
    if (headless := children.pop(getattr(model, "base_model_prefix", ""), None)) is not None:
        children = {**dict(headless.named_children()), **children}
    for name, child in children.items():
        parts[name] = [p for path, p in child.named_parameters() if "original_module" not in path.split(".")]
    whole = sum(parameter.numel() for parameter in set(chain.from_iterable(parts.values())))
    rows, counted = [], set()
    for name, parameters in parts.items():
        new = [parameter for parameter in parameters if parameter not in counted]
        counted.update(new)
        total = sum(parameter.numel() for parameter in new)
        trainable = sum(parameter.numel() for parameter in new if parameter.requires_grad)
        if parameters:
            rows.append(ComponentParameters(name, total, trainable, share=total / whole))
    return [*rows, ComponentParameters("total", whole, sum(row.trainable for row in rows), share=1.0)]


def parameter_table(rows: Sequence[ComponentParameters]) -> str:
    """Format the rows of [`component_parameters`] as a Markdown table.

    Args:
        rows: Output of [`component_parameters`].

    Example:
        >>> print(parameter_table(component_parameters(nn.ModuleDict({"embed": nn.Linear(300, 40)}))))
        | Component | Parameters | Trainable | Share |
        |---|---:|---:|---:|
        | embed | 12,040 | 12,040 | 100.0 % |
        | total | 12,040 | 12,040 | 100.0 % |
    """
    lines = [f"| {row.name} | {row.total:,} | {row.trainable:,} | {100 * row.share:.1f} % |" for row in rows]
    return "\n".join(["| Component | Parameters | Trainable | Share |", "|---|---:|---:|---:|", *lines])
