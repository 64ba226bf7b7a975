"""What lies between a vision tower and a language model: from image tokens `(B, N, Dv)` to `(B, M, Dt)`."""

from torch import Tensor, nn
from transformers import PreTrainedConfig

from vlmkit.modules.qformer import QFormer
from vlmkit.modules.text_encoders import EncoderSizes


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

    def forward(self, image_tokens: Tensor) -> Tensor:
        """From `(B, N, Dv)` to `(B, M, Dt)`."""
        queries = self.qformer(image_states=self.image_projection(image_tokens)).queries
        return self.mlp(queries)
