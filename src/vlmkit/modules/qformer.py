"""The Q-Former: a text encoder with learned queries that attend to an image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmkit.modules.attention import AttentionBlock, FeedForwardBlock, additive_attention_mask
from vlmkit.modules.text_encoders import EncoderSizes
from vlmkit.validation import check_choice

ATTENTION_MODES = ("unimodal", "multimodal", "multimodal_causal")
_CROSS_EPS = 1e-5


class QFormerStates(NamedTuple):
    """Output of the Q-Former.

    Args:
        text: `(B, T, D)`. T is 0 without a text.
        queries: `(B, Q, D)`. Q is 0 without an image.
        layers: `(B, T + Q, D)` before the first layer and after each layer, with `output_hidden_states=True`.
    """

    text: Tensor
    queries: Tensor
    layers: tuple[Tensor, ...] | None


class TextEmbeddings(nn.Module):
    """Normalized sum of token and position embeddings.

    Args:
        encoder_sizes: Sizes of the text encoder.
    """

    def __init__(self, encoder_sizes: EncoderSizes):
        super().__init__()
        self.word_embeddings = nn.Embedding(encoder_sizes.vocab_size, encoder_sizes.hidden_size)
        self.position_embeddings = nn.Embedding(encoder_sizes.num_positions, encoder_sizes.hidden_size)
        self.norm = nn.LayerNorm(encoder_sizes.hidden_size, eps=encoder_sizes.eps)
        self.dropout = nn.Dropout(encoder_sizes.dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed tokens. Positions count attended tokens.

        Args:
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding.

        Returns:
            `(B, T, D)`.

        Raises:
            ValueError: If there are more tokens than learned positions.
        """
        if input_ids.shape[1] > (limit := self.position_embeddings.num_embeddings):
            raise ValueError(
                f"`input_ids` must have at most {limit} tokens, the number of learned positions, but got "
                f"{input_ids.shape[1]}. Truncate the texts."
            )
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        embeddings = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.dropout(self.norm(embeddings))


class ImageAttention(nn.Module):
    """Cross-attention of the queries to an image, and a feed-forward layer, each with a post-norm and a residual.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of queries and vision features.
        num_heads: See [`Attention`].
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.cross_attention = AttentionBlock(
            config, hidden_size=hidden_size, num_heads=num_heads, norm="post", eps=_CROSS_EPS
        )
        self.feed_forward = FeedForwardBlock(
            hidden_size, intermediate_size=4 * hidden_size, norm="post", eps=_CROSS_EPS
        )

    def forward(self, queries: Tensor, vision_features: Tensor, vision_mask: Tensor | None = None) -> Tensor:
        """Update the queries.

        Args:
            queries: `(B, Q, D)`.
            vision_features: `(B, N, D)`.
            vision_mask: `(B, 1, 1, N)`, added to the scores.

        Returns:
            `(B, Q, D)`.
        """
        key_values = self.cross_attention.attention.key_values(vision_features)
        queries, _ = self.cross_attention(queries, key_values, vision_mask)
        return self.feed_forward(queries)


class QFormerLayer(GradientCheckpointingLayer):
    """Layer of a Q-Former: self-attention over text and queries, a feed-forward layer, and attention to the image.

    Each part has a residual connection and a post-norm.

    Args:
        config: See [`Attention`].
        encoder_sizes: Sizes of the text encoder.
        num_cross_attention_heads: Heads of the attention to the image, or `None` for a layer without it.
    """

    def __init__(self, config: PreTrainedConfig, *, encoder_sizes: EncoderSizes, num_cross_attention_heads: int | None):
        super().__init__()
        self.self_attention = AttentionBlock(
            config,
            hidden_size=encoder_sizes.hidden_size,
            num_heads=encoder_sizes.num_heads,
            norm="post",
            eps=encoder_sizes.eps,
            dropout=encoder_sizes.attention_dropout,
            output_dropout=encoder_sizes.output_dropout,
        )
        self.feed_forward = FeedForwardBlock(
            encoder_sizes.hidden_size,
            intermediate_size=encoder_sizes.intermediate_size,
            norm="post",
            eps=encoder_sizes.eps,
            dropout=encoder_sizes.dropout,
            inner_dropout=0.0,
        )
        self.image_attention = None
        if num_cross_attention_heads is not None:
            self.image_attention = ImageAttention(
                config, hidden_size=encoder_sizes.hidden_size, num_heads=num_cross_attention_heads
            )

    def forward(
        self,
        hidden_states: Tensor,
        vision_features: Tensor | None,
        attention_mask: Tensor | None,
        num_text_tokens: int,
        vision_mask: Tensor | None = None,
    ) -> Tensor:
        """Update text and queries.

        Args:
            hidden_states: `(B, T + Q, D)`, text tokens before queries.
            vision_features: `(B, N, D)`, or `None` if there are no queries.
            attention_mask: `(B, 1, T + Q, T + Q)`, added to the scores.
            num_text_tokens: Number of text tokens, T.
            vision_mask: `(B, 1, 1, N)`, added to the scores of the attention to the image.

        Returns:
            `(B, T + Q, D)`.
        """
        hidden_states, _ = self.self_attention(hidden_states, attention_mask=attention_mask)
        hidden_states = self.feed_forward(hidden_states)
        if self.image_attention is None or vision_features is None:
            return hidden_states
        text, queries = hidden_states[:, :num_text_tokens], hidden_states[:, num_text_tokens:]
        return torch.cat([text, self.image_attention(queries, vision_features, vision_mask)], dim=1)


class QFormer(nn.Module):
    """The layers of a text encoder, and learned queries that pass through them and attend to an image.

    Args:
        config: See [`Attention`].
        encoder_sizes: Sizes of the text encoder.
        num_queries: Number of queries, Q.
        num_cross_attention_heads: Heads of the attention to the image, a divisor of the width.
        cross_attention_frequency: Number of layers from one layer with attention to the image to the next. The second
            layer is the first of them. With 1, all layers attend to the image.
        queries_see_text: See [`joint_attention_mask`].

    Raises:
        ValueError: If no layer would attend to the image, or the heads do not divide the width.

    References:
        Li et al., "BLIP-2" (arXiv:2301.12597, section 3.1); vlm-training (see `docs/papers.md`).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        encoder_sizes: EncoderSizes,
        num_queries: int,
        num_cross_attention_heads: int,
        cross_attention_frequency: int,
        queries_see_text: bool = False,
    ):
        super().__init__()
        self.queries_see_text = queries_see_text
        crosses = [
            layer % cross_attention_frequency == 1 % cross_attention_frequency
            for layer in range(encoder_sizes.num_layers)
        ]
        if not any(crosses):
            raise ValueError(
                f"With {encoder_sizes.num_layers} layers, `cross_attention_frequency` must be 1, but got "
                f"{cross_attention_frequency}. No layer would attend to the image."
            )
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, encoder_sizes.hidden_size))
        self.layers = nn.ModuleList(
            QFormerLayer(
                config,
                encoder_sizes=encoder_sizes,
                num_cross_attention_heads=num_cross_attention_heads if has_cross else None,
            )
            for has_cross in crosses
        )

    def forward(
        self,
        text_states: Tensor | None = None,
        vision_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mode: str = "unimodal",
        output_hidden_states: bool = False,
        vision_mask: Tensor | None = None,
    ) -> QFormerStates:
        """Encode texts, images, or pairs of both.

        Args:
            text_states: `(B, T, D)`, output of [`TextEmbeddings`].
            vision_features: `(B, N, D)`. Without them, there are no queries.
            attention_mask: `(B, T)`, 1 for text tokens and 0 for padding. Defaults to ones.
            mode: Attention between text and queries, see [`joint_attention_mask`].
            output_hidden_states: Whether to return the states after each layer.
            vision_mask: `(B, N)`, false for padding, which the queries do not attend to. At least one entry of each
                image must be true.

        Raises:
            ValueError: If `mode` is unknown, or neither text nor image is given.
        """
        if text_states is None and vision_features is None:
            raise ValueError("Pass `text_states`, `vision_features` or both.")
        parts = [] if text_states is None else [text_states]
        if vision_features is not None:
            parts.append(self.query_tokens.expand(len(vision_features), -1, -1))
        hidden_states = torch.cat(parts, dim=1)
        num_text_tokens, mask = 0, None
        if text_states is not None:
            if attention_mask is None:
                attention_mask = text_states.new_ones(text_states.shape[:2])
            num_text_tokens = text_states.shape[1]
            num_queries = hidden_states.shape[1] - num_text_tokens
            visible = joint_attention_mask(
                attention_mask, num_queries=num_queries, mode=mode, queries_see_text=self.queries_see_text
            )
            mask = additive_attention_mask(visible, hidden_states.dtype)
        if vision_mask is not None:
            vision_mask = additive_attention_mask(vision_mask[:, None, None], hidden_states.dtype)
        all_states = [hidden_states]
        for layer in self.layers:
            hidden_states = layer(hidden_states, vision_features, mask, num_text_tokens, vision_mask)
            if output_hidden_states:
                all_states.append(hidden_states)
        return QFormerStates(
            text=hidden_states[:, :num_text_tokens],
            queries=hidden_states[:, num_text_tokens:],
            layers=tuple(all_states) if output_hidden_states else None,
        )


def joint_attention_mask(
    attention_mask: Tensor, *, num_queries: int, mode: str, queries_see_text: bool = False
) -> Tensor:
    """Compute the self-attention mask of text tokens and the queries after them.

    Args:
        attention_mask: `(B, T)`, 1 for tokens and 0 for padding, which only padding itself attends to.
        num_queries: Number of queries, Q.
        mode: `"unimodal"` (text and queries do not attend to each other), `"multimodal"` (all attend to all) or
            `"multimodal_causal"` (text tokens attend to themselves, earlier text tokens and the queries; queries
            attend to queries).
        queries_see_text: Whether queries also attend to the text with `"multimodal_causal"`. Text tokens can then
            access later ones through the queries.

    Returns:
        `(B, 1, T + Q, T + Q)`, true where a row attends to a column. The diagonal is always true, because a softmax
        needs at least one entry.

    Raises:
        ValueError: If `mode` is unknown.

    Example:
        >>> joint_attention_mask(torch.tensor([[1, 1]]), num_queries=1, mode="multimodal_causal").int()[0, 0].tolist()
        [[1, 0, 1], [1, 1, 1], [0, 0, 1]]
    """
    check_choice("attention_mode", mode, ATTENTION_MODES)
    num_text_tokens = attention_mask.shape[1]
    row = torch.arange(num_text_tokens + num_queries, device=attention_mask.device)
    column, is_text = row[None, :], row < num_text_tokens
    row, same_side = row[:, None], is_text[:, None] == is_text[None, :]
    is_token = nn.functional.pad(attention_mask.bool(), (0, num_queries), value=True)[:, None, None, :]
    if mode == "unimodal":
        visible = same_side
    elif mode == "multimodal":
        visible = torch.ones_like(same_side)
    else:
        visible = torch.where(is_text[:, None] & is_text[None, :], column <= row, True)
        if not queries_see_text:
            visible = visible & (same_side | is_text[:, None])
    return (visible & is_token) | (row == column)
