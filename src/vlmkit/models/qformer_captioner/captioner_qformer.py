"""Q-Former and cross-attention of [`QFormerCaptioner`]."""

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
    """Outputs of [`CaptionerQFormer`] and of the vision tower.

    Args:
        last_hidden_state: `(B, 1 + Q, D)`, the global token followed by the queries.
        pooler_output: `(B, D)`, the global token.
        image_hidden_states: `(B, N, D)`, the projected vision features.
        query_attentions: Attention weights of the queries to the image, one `(B, heads, 1 + Q, N)` per Q-Former layer.
            Returned with `output_attentions`.
        hidden_states: Hidden states of the vision backbone. Returned with `output_hidden_states`, or if the
            configuration sets `vision_layers`.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_hidden_states: Tensor | None = None
    query_attentions: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class VisionProjection(nn.Module):
    """Projections of vision features to the width of the Q-Former, with separate weights for each vision layer.

    Args:
        vision_size: Width of the vision features, D_vision.
        hidden_size: Width D of the Q-Former.
        num_layers: Number of vision layers L whose tokens are concatenated in the vision features.
    """

    def __init__(self, vision_size: int, *, hidden_size: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(vision_size, hidden_size) for _ in range(num_layers))

    def forward(self, vision_features: Tensor) -> Tensor:
        """Map `(B, N, D_vision)` to `(B, N, D)`, where the first N / L tokens belong to the first layer, and so on."""
        weight: Tensor = self.layers[0].weight  # type: ignore[assignment]
        # Precomputed features may have another data type than the weights.
        chunks = vision_features.to(weight.dtype).chunk(len(self.layers), dim=1)
        return torch.cat([layer(tokens) for layer, tokens in zip(self.layers, chunks, strict=True)], dim=1)


class CaptionerQFormerLayer(GradientCheckpointingLayer):
    """Layer of [`CaptionerQFormer`]: self-attention, feed-forward, cross-attention to the image, feed-forward.

    Each of the four sub-layers has a pre-norm and a residual connection.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of the queries.
        num_heads: See [`Attention`].
        dropout: Dropout probability of attention weights and feed-forward layers.
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
        """Update the queries.

        Args:
            queries: `(B, 1 + Q, D)`.
            keys: `(B, N, D)`, image features to project to keys.
            values: `(B, N, D)`, image features to project to values.
            output_attentions: Whether to return the attention weights of the queries to the image.

        Returns:
            Queries `(B, 1 + Q, D)`, and attention weights `(B, heads, 1 + Q, N)` or `None`.
        """
        queries, _ = self.self_attention(queries)
        queries = self.self_feed_forward(queries)
        image = self.cross_attention.attention.key_values(keys, values)
        queries, weights = self.cross_attention(queries, image, output_attentions=output_attentions)
        return self.cross_feed_forward(queries), weights


class CaptionerQFormer(nn.Module):
    """Q-Former without text: a global token and Q learned queries attend to the vision features of an image.

    Vision features are projected twice: to keys and values shared by all layers, and then again in each layer.

    Args:
        config: See [`Attention`].
        vision_size: Width of the vision features, D_vision.
        hidden_size: Width D of the queries.
        num_heads: See [`Attention`].
        num_layers: Number of layers, see [`CaptionerQFormerLayer`].
        num_queries: Number of queries Q, without the global token.
        num_vision_layers: Number of vision layers whose tokens are concatenated in the vision features.
        dropout: See [`CaptionerQFormerLayer`].

    Raises:
        ValueError: If `num_heads` does not divide `hidden_size`.

    References:
        MultiModel (see `docs/papers.md`); Li et al., "BLIP-2" (arXiv:2301.12597, section 3.1).
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
            output_attentions: Whether to return the attention weights of the queries to the image.
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
    """Cross-attention of a text to the queries of its image, and a feed-forward layer, each with a residual connection.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of text and queries.
        num_heads: See [`Attention`].
        dropout: Dropout probability of the attention weights, the feed-forward layer and the output.

    Raises:
        ValueError: If `num_heads` does not divide `hidden_size`.
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
        """Update the hidden states of texts.

        Args:
            hidden_states: `(B, T, D)`, the hidden states of the texts.
            key_values: Keys and values of the queries, see [`Attention.key_values`].
            output_attentions: Whether to return the attention weights.

        Returns:
            Hidden states `(B, T, D)`, and attention weights `(B, heads, T, 1 + Q)` or `None`.
        """
        attended, weights = self.attention(self.norm(hidden_states), key_values, output_attentions=output_attentions)
        return self.dropout(self.feed_forward(hidden_states + self.scale * attended)), weights
