"""The Perceiver resampler, which reduces any number of vision features to a fixed number of latents."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmkit.modules.attention import Attention, additive_attention_mask
from vlmkit.modules.feed_forward import GatedMLP
from vlmkit.validation import check_at_least

_EPS = 1e-6


class PerceiverLayer(GradientCheckpointingLayer):
    """Attention of the latents to an image and to each other, followed by a gated MLP.

    Both have a pre-norm and a residual connection.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of latents and vision features. The MLP has 4 D hidden units.
        num_heads: See [`Attention`].
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.latents_norm = nn.RMSNorm(hidden_size, eps=_EPS)
        self.image_norm = nn.RMSNorm(hidden_size, eps=_EPS)
        self.attention = Attention(config, hidden_size=hidden_size, num_heads=num_heads, bias=False)
        self.mlp_norm = nn.RMSNorm(hidden_size, eps=_EPS)
        self.mlp = GatedMLP(hidden_size, intermediate_size=4 * hidden_size, output_size=hidden_size)

    def forward(self, latents: Tensor, vision_features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Update the latents.

        Args:
            latents: `(B, L, D)`.
            vision_features: `(B, N, D)`.
            attention_mask: `(B, 1, 1, N + L)`, for vision features and latents, added to the scores.

        Returns:
            `(B, L, D)`.
        """
        queries = self.latents_norm(latents)
        keys = torch.cat([self.image_norm(vision_features), queries], dim=1)
        attended, _ = self.attention(queries, self.attention.key_values(keys), attention_mask)
        latents = latents + attended
        return latents + self.mlp(self.mlp_norm(latents))


class PerceiverResampler(nn.Module):
    """Learned latents that attend to an image in every layer, and are returned as its embeddings.

    The latents are created as zeros. The model must initialize them at random, because equal latents stay equal.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of vision features and latents.
        num_latents: Number of latents, L.
        depth: Number of layers.
        num_heads: See [`Attention`].

    Raises:
        ValueError: If `num_latents` or `depth` is less than 1, or `num_heads` does not divide `hidden_size`.

    References:
        Jaegle et al., "Perceiver" (arXiv:2103.03206); Alayrac et al., "Flamingo" (arXiv:2204.14198, section 2.1);
        in this form Laurençon et al., "What matters when building vision-language models?" (arXiv:2405.02246).
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_latents: int, depth: int, num_heads: int):
        super().__init__()
        check_at_least("num_latents", num_latents)
        check_at_least("depth", depth)
        self.latents = nn.Parameter(torch.zeros(num_latents, hidden_size))
        self.layers = nn.ModuleList(
            PerceiverLayer(config, hidden_size=hidden_size, num_heads=num_heads) for _ in range(depth)
        )
        self.norm = nn.RMSNorm(hidden_size, eps=_EPS)

    def forward(self, vision_features: Tensor, vision_mask: Tensor | None = None) -> Tensor:
        """Reduce vision features to latents.

        Args:
            vision_features: `(B, N, D)`.
            vision_mask: `(B, N)`, false for padding, which the latents do not attend to.

        Returns:
            `(B, L, D)`.
        """
        latents = self.latents.expand(len(vision_features), -1, -1)
        attention_mask = None
        if vision_mask is not None:
            visible = nn.functional.pad(vision_mask, (0, len(self.latents)), value=True)[:, None, None]
            attention_mask = additive_attention_mask(visible, latents.dtype)
        for layer in self.layers:
            latents = layer(latents, vision_features, attention_mask)
        return self.norm(latents)
