"""A Perceiver resampler: a few learned latents that collect what any number of image tokens show."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmkit.modules.attention import Attention, additive_attention_mask
from vlmkit.modules.feed_forward import GatedMLP
from vlmkit.validation import check_at_least

_EPS = 1e-6


class PerceiverLayer(GradientCheckpointingLayer):
    """Attention of latents to an image and to each other, then a gated MLP; each behind a norm, with a residual.

    Args:
        config: see [`Attention`].
        hidden_size: width D of latents and image; the MLP has 4 D hidden units.
        num_heads: see [`Attention`].
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.latents_norm = nn.RMSNorm(hidden_size, eps=_EPS)
        self.image_norm = nn.RMSNorm(hidden_size, eps=_EPS)
        self.attention = Attention(config, hidden_size=hidden_size, num_heads=num_heads, bias=False)
        self.mlp_norm = nn.RMSNorm(hidden_size, eps=_EPS)
        self.mlp = GatedMLP(hidden_size, intermediate_size=4 * hidden_size, output_size=hidden_size)

    def forward(self, latents: Tensor, vision_features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """From latents `(B, L, D)` to `(B, L, D)`.

        Args:
            latents: `(B, L, D)`.
            vision_features: `(B, N, D)`.
            attention_mask: `(B, 1, 1, N + L)`, of the image, then of the latents; added to the scores.
        """
        normed = self.latents_norm(latents)
        seen = torch.cat([self.image_norm(vision_features), normed], dim=1)
        attended, _ = self.attention(normed, self.attention.key_values(seen), attention_mask)
        latents = latents + attended
        return latents + self.mlp(self.mlp_norm(latents))


class PerceiverResampler(nn.Module):
    """Learned latents that look at an image, layer by layer, and leave as its tokens: few, and always as many.

    The latents are zeros at first; the model around them draws them, or they would all stay the same.

    Args:
        config: see [`Attention`].
        hidden_size: width D of image and latents.
        num_latents: L.
        depth: number of layers.
        num_heads: see [`Attention`].

    Raises:
        ValueError: no latents or no layers, or heads that do not divide the width.

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
        """From `(B, N, D)` to `(B, L, D)`.

        Args:
            vision_features: `(B, N, D)`.
            vision_mask: `(B, N)`, false for padding, which no latent sees.
        """
        latents = self.latents.expand(len(vision_features), -1, -1)
        attention_mask = None
        if vision_mask is not None:
            sees = nn.functional.pad(vision_mask, (0, len(self.latents)), value=True)[:, None, None]
            attention_mask = additive_attention_mask(sees, latents.dtype)
        for layer in self.layers:
            latents = layer(latents, vision_features, attention_mask)
        return self.norm(latents)
