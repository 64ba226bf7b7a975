"""How many parameters a model loads, computes with and trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters of a module; works on the meta device too.

    Example:
        >>> count_parameters(nn.Linear(2, 3))
        9
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@dataclass(frozen=True)
class DualEncoderParameters:
    """Parameters of an image-text pair of backbones, in three ways of counting.

    Args:
        loaded: both backbones whole, as the original system loads them, plus the projection.
        computed: what a forward pass reads: of a text model used for its token embeddings, only the tables.
        trained: what receives gradients.
    """

    loaded: int
    computed: int
    trained: int


def dual_encoder_parameters(model: PreTrainedModel) -> DualEncoderParameters:
    """Count the parameters of a dual encoder.

    The original of "Which side should we scale?" calls ViT-L with GPT-2-medium a balanced 660M model; of GPT-2 no block
    ever runs, so it computes with 356M, and one more in the projection.

    Args:
        model: has `text_tower` and `config.text_config`; on any device, the meta device included.
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
    """Parameters of one part of a model.

    Args:
        name: of the part; "total" for the model as a whole.
        total: number of parameters, those of an earlier part that this one shares left out.
        trainable: how many of them receive gradients.
        share: `total` as a fraction of the whole model's.
    """

    name: str
    total: int
    trainable: int
    share: float


def component_parameters(model: nn.Module) -> list[ComponentParameters]:
    """Count the parameters of each part of a model.

    The parts are the model's own parameters, if it has any outside its modules, and its direct children, in that order;
    of a model with a head, the children of the headless model come first. Children without parameters are left out.
    Parameters that several parts share, such as tied embeddings, count in the first of them only, so that the parts add
    up to the whole. What peft keeps of modules that it trains whole, for an adapter that is switched off, does not
    count.

    Args:
        model: any module, on any device, the meta device included.

    Returns:
        One row for each part, then the total.

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
    """Write the rows of [`component_parameters`] as a Markdown table.

    Example:
        >>> print(parameter_table(component_parameters(nn.ModuleDict({"embed": nn.Linear(300, 40)}))))
        | Component | Parameters | Trainable | Share |
        |---|---:|---:|---:|
        | embed | 12,040 | 12,040 | 100.0 % |
        | total | 12,040 | 12,040 | 100.0 % |
    """
    lines = [f"| {row.name} | {row.total:,} | {row.trainable:,} | {100 * row.share:.1f} % |" for row in rows]
    return "\n".join(["| Component | Parameters | Trainable | Share |", "|---|---:|---:|---:|", *lines])
