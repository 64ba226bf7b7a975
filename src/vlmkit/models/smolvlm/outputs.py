"""What [`SmolVLM`] returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers import Cache
from transformers.utils import ModelOutput

from vlmkit.modules.fusion import ImageEmbeds


@dataclass
class SmolVLMOutput(ModelOutput):
    """What [`SmolVLM`] returns.

    Args:
        loss: scalar, float32; given with `labels`.
        logits: `(B, T, vocabulary)`; in training with `labels` there are none, as only positions with a label pass
            through the head.
        past_key_values: the language model's cache.
        image_hidden_states: the images' tokens in the language model, `(I, M, D)`; where images differ in their number,
            one `(M_i, D)` for each.
        hidden_states: of the language model's layers `(B, T, D)`; with `output_hidden_states`.
        attentions: of the language model's layers `(B, heads, T, T)`; with `output_attentions`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    image_hidden_states: ImageEmbeds | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
