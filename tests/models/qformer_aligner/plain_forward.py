"""The Q-Former once more, for a single image and a single text without padding, one head at a time."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from vlmkit import QFormerAligner


def sees(row: int, column: int, num_text_tokens: int, mode: str, queries_see_text: bool) -> bool:
    """Whether one token (or query behind the text) sees another."""
    row_is_text, column_is_text = row < num_text_tokens, column < num_text_tokens
    if mode == "unimodal":
        return row_is_text == column_is_text
    if mode == "multimodal" or not column_is_text:
        return True
    return column <= row if row_is_text else queries_see_text


class PlainForward:
    """Computes what [`QFormerAligner.get_multimodal_features`] does.

    Args:
        model: whose weights are used.
        text_heads: heads of its self-attention.
    """

    def __init__(self, model: QFormerAligner, text_heads: int):
        self.model, self.text_heads = model, text_heads
        self.cross_heads = model.config.num_cross_attention_heads or text_heads

    def __call__(self, vision_features: Tensor, input_ids: Tensor, mode: str) -> tuple[Tensor, Tensor]:
        """From `(N, vision width)` and `(T,)` to the text `(T, D)` and the queries `(Q, D)`."""
        embeddings, qformer = self.model.text_embeddings, self.model.qformer
        length = len(input_ids)
        words = embeddings.word_embeddings.weight[input_ids] + embeddings.position_embeddings.weight[:length]
        states = torch.cat([normalize(embeddings.norm, words), qformer.query_tokens[0]])
        flag = self.model.config.original_causal_mask
        mask = torch.tensor([[sees(r, c, length, mode, flag) for c in range(len(states))] for r in range(len(states))])
        image = self.model.vision_projection(vision_features)
        for layer in qformer.layers:
            block = layer.self_attention
            states = normalize(block.norm, states + attend(block.attention, states, states, mask, self.text_heads))
            states = feed_forward(layer.feed_forward, states)
            if layer.image_attention is not None:
                queries, block = states[length:], layer.image_attention.cross_attention
                everything = torch.ones(len(queries), len(image), dtype=torch.bool)
                seen = attend(block.attention, queries, image, everything, self.cross_heads)
                queries = normalize(block.norm, queries + seen)
                states = torch.cat([states[:length], feed_forward(layer.image_attention.feed_forward, queries)])
        return states[:length], states[length:]


def normalize(norm: nn.LayerNorm, states: Tensor) -> Tensor:
    centred = states - states.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    return centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def feed_forward(block: nn.Module, states: Tensor) -> Tensor:
    first, second = block.mlp.fc1, block.mlp.fc2
    return normalize(block.norm, states + second(gelu(first(states))))


def attend(attention: nn.Module, states: Tensor, others: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    parts = zip(
        attention.q_proj(states).chunk(num_heads, dim=-1),
        attention.k_proj(others).chunk(num_heads, dim=-1),
        attention.v_proj(others).chunk(num_heads, dim=-1),
        strict=True,
    )
    heads = []
    for query, key, value in parts:
        scores = (query @ key.T / query.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
        heads.append(scores.softmax(-1) @ value)
    return attention.out_proj(torch.cat(heads, dim=-1))
