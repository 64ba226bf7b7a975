"""What lies between a vision tower and a language model: from image tokens `(B, N, Dv)` to embeddings `(B, M, Dt)`.

Every connector is called with the image tokens and, where images of several sizes are padded to one, a
`token_mask (B, rows, columns)`, which lays the patch tokens out as a grid, row by row, and is false for padding. It
returns the embeddings, and a mask `(B, M)` of those that are there, or `None` if every image has all M.
"""

import math

from torch import Tensor, nn
from transformers import PreTrainedConfig

from vlmkit.modules.perceiver import GatedMLP, PerceiverResampler
from vlmkit.modules.qformer import QFormer
from vlmkit.modules.text_encoders import EncoderSizes


def flat_token_mask(token_mask: Tensor, num_tokens: int) -> Tensor:
    """Which of the images' tokens are real, in their order.

    Args:
        token_mask: `(B, rows, columns)`, false for padding.
        num_tokens: N; what exceeds the grid are tokens in front of it, such as a class token, and real.

    Returns:
        `(B, N)` booleans.

    Raises:
        ValueError: there are fewer tokens than the grid has places.

    Example:
        >>> import torch
        >>> flat_token_mask(torch.tensor([[[True, False], [True, False]]]), num_tokens=5).tolist()
        [[True, True, False, True, False]]
    """
    is_real = token_mask.flatten(1)
    num_prefix = num_tokens - is_real.shape[1]
    if num_prefix < 0:
        rows, columns = token_mask.shape[1:]
        raise ValueError(
            f"{num_tokens} tokens do not fill the grid of {rows} x {columns} that token_mask lays out; give the mask "
            "that the vision tower returned with them"
        )
    return nn.functional.pad(is_real, (num_prefix, 0), value=True)


class QFormerConnector(nn.Module):
    """A Q-Former, whose queries collect what an image shows, and two layers that make language model tokens of them.

    Args:
        config: the model's, see [`Attention`].
        vision_size: width Dv of the image tokens.
        sizes: of the text encoder whose layers the Q-Former has.
        num_queries: M.
        num_cross_heads: heads of the queries' attention to the image; as many as the text encoder's if not given.
        cross_frequency: see [`QFormer`].
        text_size: width Dt of the language model.

    Raises:
        ValueError: as [`QFormer`] raises.

    References:
        vlm-training (see `docs/papers.md`).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        vision_size: int,
        sizes: EncoderSizes,
        num_queries: int,
        num_cross_heads: int | None,
        cross_frequency: int,
        text_size: int,
    ):
        super().__init__()
        width = sizes.hidden_size
        self.image_projection = nn.Identity() if vision_size == width else nn.Linear(vision_size, width)
        self.qformer = QFormer(config, sizes, num_queries, num_cross_heads or sizes.num_heads, cross_frequency)
        self.mlp = nn.Sequential(nn.Linear(width, text_size), nn.ReLU(), nn.Linear(text_size, text_size))

    def forward(self, image_tokens: Tensor, token_mask: Tensor | None = None) -> tuple[Tensor, None]:
        """From `(B, N, Dv)` to `(B, M, Dt)`; the queries do not see padding."""
        image_mask = None if token_mask is None else flat_token_mask(token_mask, image_tokens.shape[1])
        states = self.qformer(image_states=self.image_projection(image_tokens), image_mask=image_mask)
        return self.mlp(states.queries), None


class PerceiverConnector(nn.Module):
    """A gated MLP that brings image tokens to the language model's width, and a Perceiver that makes few of many.

    Args:
        config: the model's, see [`Attention`].
        vision_size: width Dv of the image tokens.
        text_size: width Dt of the language model.
        intermediate_size: hidden units of the MLP; the study takes the language model's.
        num_latents: M.
        depth: see [`PerceiverResampler`].
        num_heads: see [`PerceiverResampler`].

    Raises:
        ValueError: as [`PerceiverResampler`] raises.

    References:
        Laurençon et al., "What matters when building vision-language models?" (arXiv:2405.02246).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        vision_size: int,
        text_size: int,
        intermediate_size: int,
        num_latents: int,
        depth: int,
        num_heads: int,
    ):
        super().__init__()
        self.modality_projection = GatedMLP(vision_size, intermediate_size, text_size)
        self.resampler = PerceiverResampler(config, text_size, num_latents, depth, num_heads)

    def forward(self, image_tokens: Tensor, token_mask: Tensor | None = None) -> tuple[Tensor, None]:
        """From `(B, N, Dv)` to `(B, M, Dt)`; the latents do not see padding."""
        image_mask = None if token_mask is None else flat_token_mask(token_mask, image_tokens.shape[1])
        return self.resampler(self.modality_projection(image_tokens), image_mask), None


class MLPConnector(nn.Module):
    """Two layers with an exact GELU between them: every image token becomes a token of the language model, M = N.

    Args:
        vision_size: width Dv of the image tokens.
        text_size: width Dt of the language model.

    References:
        Liu et al., "Improved Baselines with Visual Instruction Tuning" (LLaVA-1.5, arXiv:2310.03744).
    """

    def __init__(self, vision_size: int, text_size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(vision_size, text_size), nn.GELU(), nn.Linear(text_size, text_size))

    def forward(self, image_tokens: Tensor, token_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """From `(B, N, Dv)` to `(B, N, Dt)`, and with a `token_mask` which of them are real `(B, N)`."""
        image_mask = None if token_mask is None else flat_token_mask(token_mask, image_tokens.shape[1])
        return self.mlp(image_tokens), image_mask


class PixelShuffleConnector(nn.Module):
    """Makes one token of every square of neighbouring image tokens: their features side by side, then a linear layer.

    This is the space-to-depth of Idefics3 and InternVL: M = N / factor², and nothing is pooled away before the layer.

    Args:
        vision_size: width Dv of the image tokens.
        text_size: width Dt of the language model.
        factor: side of a square, in tokens.

    Raises:
        ValueError: `factor` is less than 1.

    References:
        Laurençon et al., "Building and better understanding vision-language models" (Idefics3, arXiv:2408.12637);
        Chen et al., "How Far Are We to GPT-4V?" (InternVL 1.5, arXiv:2404.16821).
    """

    def __init__(self, vision_size: int, text_size: int, factor: int):
        super().__init__()
        if factor < 1:
            raise ValueError(f"pixel_shuffle_factor is {factor}; it must be at least 1")
        self.factor = factor
        self.projection = nn.Linear(factor**2 * vision_size, text_size, bias=False)

    def forward(self, image_tokens: Tensor, token_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Put squares together.

        Args:
            image_tokens: `(B, N, Dv)`, of patches only: a class token belongs to no square.
            token_mask: `(B, rows, columns)`; the grid is a square of real tokens if not given.

        Returns:
            `(B, M, Dt)`, and with a `token_mask` which squares have a real token `(B, M)`; what a square has of padding
            counts as zeros.

        Raises:
            ValueError: the tokens do not fill the grid, or whole squares do not.
        """
        rows, columns = self._grid(image_tokens.shape[1], token_mask)
        image_mask = None
        if token_mask is not None:
            image_tokens = image_tokens.masked_fill(~token_mask.flatten(1)[..., None], 0)
            image_mask = self._squares(token_mask.flatten(1), rows, columns).any(dim=-1)
        squares = self._squares(image_tokens, rows, columns)  # (B, M, factor², Dv)
        return self.projection(squares.flatten(2)), image_mask

    def _grid(self, num_tokens: int, token_mask: Tensor | None) -> tuple[int, int]:
        """Rows and columns, which the factor divides."""
        if token_mask is None:
            rows = columns = math.isqrt(num_tokens)
        else:
            rows, columns = token_mask.shape[1:]
        if rows * columns != num_tokens:
            grid = "a square grid" if token_mask is None else f"the grid of {rows} x {columns} that token_mask lays out"
            raise ValueError(
                f"{num_tokens} tokens do not fill {grid}; give the tokens of all patches, and no class token"
            )
        if rows % self.factor or columns % self.factor:
            raise ValueError(
                f"a grid of {rows} x {columns} tokens is no multiple of pixel_shuffle_factor={self.factor}; choose a "
                "factor that divides both numbers, or another image size"
            )
        return rows, columns

    def _squares(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """From `(B, N, ...)` to `(B, M, factor², ...)`, squares and the tokens of each row by row."""
        side = self.factor
        grid = tokens.unflatten(1, (rows // side, side, columns // side, side))
        return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
