"""Connectors map the features of a vision tower to embeddings of a language model.

Every connector takes `vision_features (B, N, D_vision)` and, for padded images of different sizes, a
`patch_attention_mask (B, rows, columns)` that is `False` for padding. It returns

- `embeds (B, M, D_text)`, the image token embeddings, and
- `mask (B, M)`, which is `False` for embeddings that are padding, or `None` if all M are valid.

The connectors differ in M, the number of image tokens per image:

| connector | image tokens M | parameters | prefer it when |
|---|---|---|---|
| `QFormerConnector` | `num_queries` | most | a first stage has trained the Q-Former on image-text pairs |
| `PerceiverConnector` | `num_latents` | many | many patches have to become few tokens |
| `PixelShuffleConnector` | N / factor² | few | details and their positions matter |
| `MLPConnector` | N | few | the context can hold one token per patch |
"""

import math

from torch import Tensor, nn
from transformers import PreTrainedConfig

from vlmkit.modules.feed_forward import GatedMLP
from vlmkit.modules.perceiver import PerceiverResampler
from vlmkit.modules.qformer import QFormer
from vlmkit.modules.text_encoders import EncoderSizes
from vlmkit.validation import check_at_least


def flatten_patch_mask(patch_attention_mask: Tensor, num_tokens: int) -> Tensor:
    """Flatten a patch mask and extend it to the prefix tokens.

    Prefix tokens (class, distillation and register tokens) precede the patches and are always valid.

    Args:
        patch_attention_mask: `(B, rows, columns)`, `False` for padding.
        num_tokens: Number of vision tokens N, prefix tokens included.

    Returns:
        Boolean mask `(B, N)`.

    Raises:
        ValueError: If there are fewer tokens than patches in the mask.

    Example:
        >>> import torch
        >>> flatten_patch_mask(torch.tensor([[[True, False], [True, False]]]), num_tokens=5).tolist()
        [[True, True, False, True, False]]
    """
    mask = patch_attention_mask.flatten(1)
    num_prefix_tokens = num_tokens - mask.shape[1]
    if num_prefix_tokens < 0:
        rows, columns = patch_attention_mask.shape[1:]
        raise ValueError(
            f"`patch_attention_mask` describes {rows} x {columns} patches, but there are only {num_tokens} vision "
            "tokens. Pass the mask that the vision tower returned with these features."
        )
    return nn.functional.pad(mask, (num_prefix_tokens, 0), value=True)


class QFormerConnector(nn.Module):
    """Q-Former followed by a two-layer MLP.

    Learned queries attend to the vision features through the layers of a text encoder; the MLP projects them to the
    width of the language model. M is the number of queries.

    Args:
        config: Configuration of the whole model, which selects the attention implementation.
        vision_size: Width of the vision features, D_vision.
        text_size: Width of the language model, D_text.
        encoder_sizes: Sizes of the text encoder that the Q-Former is initialised from.
        num_queries: Number of learned queries.
        num_cross_attention_heads: Heads of the cross-attention. Defaults to the number of heads of the text encoder.
        cross_attention_frequency: Every how many layers a cross-attention block is inserted.

    Raises:
        ValueError: If the sizes are not divisible by the numbers of heads.

    References:
        Li et al., "BLIP-2" (arXiv:2301.12597), section 3.1; vlm-training (see `docs/papers.md`).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_size: int,
        text_size: int,
        encoder_sizes: EncoderSizes,
        num_queries: int,
        num_cross_attention_heads: int | None = None,
        cross_attention_frequency: int = 2,
    ):
        super().__init__()
        width = encoder_sizes.hidden_size
        self.vision_projection = nn.Identity() if vision_size == width else nn.Linear(vision_size, width)
        self.qformer = QFormer(
            config,
            encoder_sizes=encoder_sizes,
            num_queries=num_queries,
            num_cross_attention_heads=num_cross_attention_heads or encoder_sizes.num_heads,
            cross_attention_frequency=cross_attention_frequency,
        )
        self.fc1 = nn.Linear(width, text_size)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(text_size, text_size)

    def forward(self, vision_features: Tensor, patch_attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        """Map `(B, N, D_vision)` to `(B, num_queries, D_text)`. Padding is masked in the cross-attention."""
        mask = None
        if patch_attention_mask is not None:
            mask = flatten_patch_mask(patch_attention_mask, vision_features.shape[1])
        queries = self.qformer(vision_features=self.vision_projection(vision_features), vision_mask=mask).queries
        return self.fc2(self.act(self.fc1(queries))), None


class PerceiverConnector(nn.Module):
    """Gated MLP followed by a Perceiver resampler.

    The MLP projects vision features to the width of the language model; the resampler reduces them to a fixed number of
    latents, M.

    Args:
        config: Configuration of the whole model, which selects the attention implementation.
        vision_size: Width of the vision features, D_vision.
        text_size: Width of the language model, D_text.
        intermediate_size: Hidden width of the MLP. The study uses that of the language model.
        num_latents: Number of latents, M.
        depth: Number of resampler layers.
        num_heads: Attention heads of the resampler.

    Raises:
        ValueError: If `num_heads` does not divide `text_size`, or `num_latents` or `depth` is less than 1.

    References:
        Laurençon et al., "What matters when building vision-language models?" (arXiv:2405.02246).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_size: int,
        text_size: int,
        intermediate_size: int,
        num_latents: int,
        depth: int,
        num_heads: int,
    ):
        super().__init__()
        self.modality_projection = GatedMLP(vision_size, intermediate_size=intermediate_size, output_size=text_size)
        self.resampler = PerceiverResampler(
            config, hidden_size=text_size, num_latents=num_latents, depth=depth, num_heads=num_heads
        )

    def forward(self, vision_features: Tensor, patch_attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        """Map `(B, N, D_vision)` to `(B, num_latents, D_text)`. Padding is masked in the attention."""
        mask = None
        if patch_attention_mask is not None:
            mask = flatten_patch_mask(patch_attention_mask, vision_features.shape[1])
        return self.resampler(self.modality_projection(vision_features), mask), None


class MLPConnector(nn.Module):
    """Two linear layers with an exact GELU between them. Every vision token becomes an image token, so M = N.

    Args:
        vision_size: Width of the vision features, D_vision.
        text_size: Width of the language model, D_text.

    References:
        Liu et al., "Improved Baselines with Visual Instruction Tuning" (LLaVA-1.5, arXiv:2310.03744).
    """

    def __init__(self, *, vision_size: int, text_size: int):
        super().__init__()
        self.fc1 = nn.Linear(vision_size, text_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(text_size, text_size)

    def forward(
        self, vision_features: Tensor, patch_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Map `(B, N, D_vision)` to `(B, N, D_text)`. With a mask, also return which tokens are valid, `(B, N)`."""
        mask = None
        if patch_attention_mask is not None:
            mask = flatten_patch_mask(patch_attention_mask, vision_features.shape[1])
        return self.fc2(self.act(self.fc1(vision_features))), mask


class PixelShuffleConnector(nn.Module):
    """Space-to-depth followed by a linear layer, as in Idefics3 and InternVL.

    The features of each `factor` x `factor` block of patches are concatenated and projected, so that M = N / factor²
    and no information is averaged away before the projection.

    Args:
        vision_size: Width of the vision features, D_vision.
        text_size: Width of the language model, D_text.
        factor: Side of a block, in patches.

    Raises:
        ValueError: If `factor` is less than 1.

    References:
        Laurençon et al., "Building and better understanding vision-language models" (Idefics3, arXiv:2408.12637);
        Chen et al., "How Far Are We to GPT-4V?" (InternVL 1.5, arXiv:2404.16821).
    """

    def __init__(self, *, vision_size: int, text_size: int, factor: int):
        super().__init__()
        check_at_least("factor", factor)
        self.factor = factor
        self.projection = nn.Linear(factor**2 * vision_size, text_size, bias=False)

    def forward(
        self, vision_features: Tensor, patch_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Merge blocks of patches.

        Args:
            vision_features: `(B, N, D_vision)`, patches only, without class or register tokens.
            patch_attention_mask: `(B, rows, columns)`. Defaults to a square grid without padding.

        Returns:
            Embeddings `(B, M, D_text)`, and a mask `(B, M)` of the blocks that contain at least one valid patch (`None`
            without a `patch_attention_mask`). Padding inside a block is set to zero.

        Raises:
            ValueError: If the patches do not form the grid, or the grid is not divisible by `factor`.
        """
        rows, columns = self._grid_size(vision_features.shape[1], patch_attention_mask)
        mask = None
        if patch_attention_mask is not None:
            valid = patch_attention_mask.flatten(1)
            vision_features = vision_features.masked_fill(~valid[..., None], 0)
            mask = self._to_blocks(valid, rows, columns).any(dim=-1)
        blocks = self._to_blocks(vision_features, rows, columns)  # (B, M, factor², D_vision)
        return self.projection(blocks.flatten(2)), mask

    def _grid_size(self, num_patches: int, patch_attention_mask: Tensor | None) -> tuple[int, int]:
        """Return rows and columns of the patch grid."""
        if patch_attention_mask is None:
            rows = columns = math.isqrt(num_patches)
        else:
            rows, columns = patch_attention_mask.shape[1:]
        if rows * columns != num_patches:
            raise ValueError(
                f"`vision_features` must contain {rows} x {columns} patches, but got {num_patches} tokens. Remove "
                "class and register tokens, and pass a `patch_attention_mask` for images that are not square."
            )
        if rows % self.factor or columns % self.factor:
            raise ValueError(
                f"A grid of {rows} x {columns} patches is not divisible by `pixel_shuffle_factor`={self.factor}. "
                "Choose another factor or image size."
            )
        return rows, columns

    def _to_blocks(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """Regroup `(B, rows * columns, ...)` into `(B, M, factor², ...)`, blocks in row-major order."""
        side = self.factor
        grid = tokens.unflatten(1, (rows // side, side, columns // side, side))
        return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
