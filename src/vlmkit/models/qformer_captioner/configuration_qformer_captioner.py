"""Configuration of [`QFormerCaptioner`]."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.compat.cache import CACHE_NAME
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.validation import check_at_least

# GPT-Neo with 356M parameters. The original adds `<START>` and `<END>` to its vocabulary of 50,257 tokens, and pads
# with the end-of-text token of GPT-Neo.
_TEXT_DEFAULTS = {
    "hidden_size": 1024,
    "num_layers": 24,
    "num_heads": 16,
    "vocab_size": 50259,
    "bos_token_id": 50257,
    "eos_token_id": 50258,
    "pad_token_id": 50256,
}


@strict
class QFormerCaptionerConfig(VlmkitConfig):
    """Configuration of an image backbone, a Q-Former and a causal language model.

    The defaults follow the original system, MultiModel.

    Args:
        vision_config: Configuration of an image backbone of transformers, or of timm as `timm_wrapper`. Defaults to
            the ViT-B/32 of CLIP.
        text_config: Configuration of a causal language model of transformers. Defaults to a GPT-Neo with 24 layers and
            width 1024.
        vision_layers: Indices into the `hidden_states` of the vision backbone. The Q-Former attends to the patch
            tokens of all these layers, which must have the same shape, as in a ViT. Defaults to the output of the last
            layer.
        num_query_tokens: Number of learned queries, without the global token that precedes them.
        num_qformer_layers: Number of layers of the Q-Former.
        num_attention_heads: Number of attention heads of the Q-Former and of the cross-attention to its queries, a
            divisor of the width of the language model.
        dropout: Dropout probability in the Q-Former, in the cross-attention and on the token embeddings.
        freeze_vision: Whether the vision backbone is frozen. Defaults to `True`.

    Raises:
        TypeError: If a keyword is unknown. The message suggests the most similar field.
        StrictDataclassFieldValidationError: If a value has the wrong type.
        ValueError: If a number is less than 1, `dropout` is not a probability, or `vision_layers` is empty. Some
            constraints, such as the number of heads, are checked by the model.

    References:
        MultiModel (see `docs/papers.md`) for the defaults.

    Example:
        >>> config = QFormerCaptionerConfig(num_query_tokens=32)
        >>> config.vision_config.model_type, config.text_config.hidden_size
        ('clip_vision_model', 1024)
    """

    model_type = "vlmkit_qformer_captioner"
    sub_configs_defaults = {  # noqa: RUF012 (a class attribute that transformers reads)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt_neo", init_kwargs=_TEXT_DEFAULTS),
    }
    # Large, and not needed for metrics.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        CACHE_NAME,
        "query_embeds",
        "image_hidden_states",
        "cross_attentions",
        "query_attentions",
    ]

    vision_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    vision_layers: list[int] | None = None
    num_query_tokens: int = 64
    num_qformer_layers: int = 2
    num_attention_heads: int = 8
    dropout: float | int = 0.1
    freeze_vision: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Validate the fields."""
        for name in ("num_query_tokens", "num_qformer_layers", "num_attention_heads"):
            check_at_least(name, getattr(self, name))
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"`dropout` must be a probability from 0 to 1, but got {self.dropout}.")
        if self.vision_layers is not None and not self.vision_layers:
            raise ValueError(
                "`vision_layers` must contain at least one layer, but got an empty list. Omit it to use the last layer."
            )
        tie_word_embeddings = kwargs.pop("tie_word_embeddings", None)
        super().__post_init__(**kwargs)
        self.set_tied_head(tie_word_embeddings)
