"""What [`QFormerAligner`] returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class QFormerFeatures(ModelOutput):
    """What the Q-Former makes of images and texts that it reads together.

    Args:
        query_hidden_state: `(B, Q, D)`.
        text_hidden_state: `(B, T, D)`.
        query_pooled: `(B, D)`, the mean of the queries.
        text_pooled: `(B, D)`, the text's first token.
    """

    query_hidden_state: Tensor | None = None
    text_hidden_state: Tensor | None = None
    query_pooled: Tensor | None = None
    text_pooled: Tensor | None = None


@dataclass
class QFormerAlignerOutput(ModelOutput):
    """What [`QFormerAligner`] returns.

    Args:
        loss: scalar, float32, the weighted sum of those below; given when images and texts are pairs and `return_loss`
            is set.
        logits_per_image: `(I, T)` similarities of every image with every text, divided by the temperature.
        logits_per_text: `(T, I)`, the same transposed.
        image_embeds: `(I, D)`, unit length.
        text_embeds: `(T, D)`, unit length.
        contrastive_loss: scalar; if its weight is positive, as with the next two.
        matching_loss: scalar.
        captioning_loss: scalar.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    contrastive_loss: Tensor | None = None
    matching_loss: Tensor | None = None
    captioning_loss: Tensor | None = None
