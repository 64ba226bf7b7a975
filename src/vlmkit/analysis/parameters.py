"""How many parameters a model loads, computes with and trains."""

from dataclasses import dataclass

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
