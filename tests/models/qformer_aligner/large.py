"""Aligners with weights so large that attention is far from uniform, and a mistake in it shows."""

import copy

import torch
from tests import tiny
from transformers import BertConfig, RobertaConfig

from vlmkit import QFormerAligner

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40}
LARGE = {"vocab_size": 99, "max_position_embeddings": 64, "initializer_range": 0.3}
TEXT = {
    "distilbert": tiny.distilbert_config(initializer_range=0.3),
    "bert": BertConfig(**SIZES, **LARGE),
    "roberta": RobertaConfig(**SIZES, **LARGE, pad_token_id=1),
}
ALL_LOSSES = {"matching_loss_weight": 1.0, "captioning_loss_weight": 1.0}


def aligner(text: str = "distilbert", **config) -> QFormerAligner:
    """All weights large and none zero, norms and biases included."""
    torch.manual_seed(0)
    parts = {"vision_config": tiny.vision_config(initializer_range=0.5), "text_config": copy.deepcopy(TEXT[text])}
    fields = {**parts, "num_cross_attention_heads": None, **config}
    model = QFormerAligner(tiny.qformer_aligner_config(**fields)).eval()
    with torch.no_grad():
        for part in (model.vision_projection, model.text_embeddings, model.qformer):
            for name, parameter in part.named_parameters():
                parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
    return model
