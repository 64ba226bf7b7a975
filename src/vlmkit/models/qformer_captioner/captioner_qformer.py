"""The Q-Former of [`QFormerCaptioner`]: learned queries that collect what an image shows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from vlmkit.modules.attention import Attention, AttentionBlock, FeedForwardBlock, KeyValues

_QFORMER_EPS, _CROSS_EPS = 1e-6, 1e-5


@dataclass
class CaptionerFeatures(ModelOutput):
    """What the Q-Former makes of images.

    Args:
        last_hidden_state: `(B, 1 + Q, D)`, the global token first.
        pooler_output: `(B, D)`, the global token.
        image_hidden_states: `(B, N, D)`, the projected tokens of the vision tower.
        query_attentions: of each Q-Former layer `(B, heads, 1 + Q, N)`; with `output_attentions`.
        hidden_states: of the vision backbone's layers; with `output_hidden_states`, or where several of them are used.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_hidden_states: Tensor | None = None
    query_attentions: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class VisionProjection(nn.Module):
    """Brings the tokens of each vision layer to the Q-Former's width, by a projection of its own.

    Args:
        vision_size: width of the vision tower's tokens.
        hidden_size: width D of the Q-Former.
        num_layers: vision layers, whose tokens come one layer after the other.
    """

    def __init__(self, vision_size: int, *, hidden_size: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(vision_size, hidden_size) for _ in range(num_layers))

    def forward(self, vision_features: Tensor) -> Tensor:
        """From `(B, N, vision_size)` to `(B, N, D)`, N a multiple of the layers."""
        weight: Tensor = self.layers[0].weight  # type: ignore[assignment]
        chunks = vision_features.to(weight.dtype).chunk(len(self.layers), dim=1)  # cached ones may be of another type
        return torch.cat([layer(tokens) for layer, tokens in zip(self.layers, chunks, strict=True)], dim=1)


class CaptionerQFormerLayer(GradientCheckpointingLayer):
    """Self-attention, feed-forward, attention to the image, feed-forward; each behind a norm, each with a residual.

    Args:
        config: see [`Attention`].
        hidden_size: width D of the tokens.
        num_heads: see [`Attention`].
        dropout: of attention probabilities and feed-forward layers, in training.
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        block: dict[str, Any] = {"norm": "pre", "eps": _QFORMER_EPS, "dropout": dropout}
        attention: dict[str, Any] = {"hidden_size": hidden_size, "num_heads": num_heads, **block}
        feed_forward: dict[str, Any] = {"intermediate_size": 4 * hidden_size, **block}
        self.self_attention = AttentionBlock(config, **attention)
        self.self_feed_forward = FeedForwardBlock(hidden_size, **feed_forward)
        self.cross_attention = AttentionBlock(config, **attention)
        self.cross_feed_forward = FeedForwardBlock(hidden_size, **feed_forward)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let queries see each other, then the image.

        Args:
            queries: `(B, 1 + Q, D)`.
            keys: `(B, N, D)`, of the image.
            values: `(B, N, D)`, of the image.
            output_attentions: whether the attention to the image is returned.

        Returns:
            `(B, 1 + Q, D)`, and `(B, heads, 1 + Q, N)` or `None`.
        """
        queries, _ = self.self_attention(queries)
        queries = self.self_feed_forward(queries)
        image = self.cross_attention.attention.key_values(keys, values)
        queries, weights = self.cross_attention(queries, image, output_attentions=output_attentions)
        return self.cross_feed_forward(queries), weights


class CaptionerQFormer(nn.Module):
    """A global token and Q learned queries that attend to the tokens of an image.

    All layers get the same keys and values, which each projects once more.

    Args:
        config: see [`Attention`].
        hidden_size: width D of the tokens.
        num_heads: see [`Attention`].
        num_layers: of [`CaptionerQFormerLayer`].
        num_queries: Q, beside the global token.
        dropout: see [`CaptionerQFormerLayer`].

    References:
        MultiModel (see `docs/papers.md`); after Li et al., "BLIP-2" (arXiv:2301.12597, section 3.1).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_size: int,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        num_queries: int,
        num_vision_layers: int,
        dropout: float,
    ):
        super().__init__()
        self.vision_projection = VisionProjection(vision_size, hidden_size=hidden_size, num_layers=num_vision_layers)
        self.global_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, hidden_size))
        self.key_proj = nn.Linear(hidden_size, hidden_size)
        self.value_proj = nn.Linear(hidden_size, hidden_size)
        self.layers = nn.ModuleList(
            CaptionerQFormerLayer(config, hidden_size=hidden_size, num_heads=num_heads, dropout=dropout)
            for _ in range(num_layers)
        )

    def forward(self, vision_features: Tensor, output_attentions: bool = False) -> "CaptionerFeatures":
        """Compute the queries of images.

        Args:
            vision_features: `(B, N, D_vision)`.
            output_attentions: Whether to return the attention of the queries to the image.
        """
        image_states = self.vision_projection(vision_features)
        keys, values = self.key_proj(image_states), self.value_proj(image_states)
        queries = torch.cat([self.global_token, self.query_tokens], dim=1).expand(len(image_states), -1, -1)
        attentions = []
        for layer in self.layers:
            queries, weights = layer(queries, keys, values, output_attentions=output_attentions)
            attentions.append(weights)
        return CaptionerFeatures(
            last_hidden_state=queries,
            pooler_output=queries[:, 0],
            image_hidden_states=image_states,
            query_attentions=tuple(attentions) if output_attentions else None,
        )


class ImageCrossAttention(nn.Module):
    """Lets text look at the queries of its image: attention, then a feed-forward layer, each with a residual.

    Args:
        config: see [`Attention`].
        hidden_size: width D of the tokens.
        num_heads: see [`Attention`].
        dropout: of attention probabilities, feed-forward layer and result, in training.
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=_CROSS_EPS)
        self.attention = Attention(config, hidden_size=hidden_size, num_heads=num_heads, dropout=dropout)
        self.scale = nn.Parameter(torch.ones(1))
        self.feed_forward = FeedForwardBlock(
            hidden_size, intermediate_size=4 * hidden_size, norm="pre", eps=_CROSS_EPS, dropout=dropout
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden_states: Tensor, key_values: KeyValues, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Look.

        Args:
            hidden_states: `(B, T, D)`, of the text.
            key_values: of [`Attention.key_values`], of the queries.
            output_attentions: whether the attention is returned.

        Returns:
            `(B, T, D)`, and `(B, heads, T, 1 + Q)` or `None`.
        """
        attended, weights = self.attention(self.norm(hidden_states), key_values, output_attentions=output_attentions)
        return self.dropout(self.feed_forward(hidden_states + self.scale * attended)), weights
