"""Configuration of [`QFormerCaptioner`]."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.compat.cache import CACHE_NAME
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.validation import check_at_least

# GPT-Neo of 356M parameters; the original added `<START>` and `<END>` to its 50,257 tokens, and pads with the old end.
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
    """An image backbone, the Q-Former behind it, and a language model. The defaults are the original's.

    Args:
        vision_config: any image backbone of transformers, or of timm as `timm_wrapper`. Default: CLIP's ViT-B/32.
        text_config: any causal language model of transformers. Default: a GPT-Neo of 24 layers and width 1024.
        vision_layers: of which layers the Q-Former sees the patch tokens, as indices into the backbone's
            `hidden_states`; the last layer's output if not given. Several layers need a ViT.
        num_query_tokens: learned queries, beside the global token that precedes them.
        num_qformer_layers: layers of the Q-Former.
        num_attention_heads: heads of the Q-Former and of the language model's attention to it; a divisor of the
            language model's width.
        dropout: in the Q-Former, in that attention, and on the token embeddings, in training.
        freeze_vision: whether the vision backbone stays as it is. Default: yes.

    Raises:
        TypeError: an unknown keyword (the message names the closest field).
        StrictDataclassFieldValidationError: a value of the wrong type.
        ValueError: a number below 1, a dropout outside 0..1, or an empty list of layers. What only the built model can
            tell, such as heads that do not divide its width, is told when it is built.

    References:
        MultiModel (see `docs/papers.md`): all defaults.

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
        """Check the values."""
        for name in ("num_query_tokens", "num_qformer_layers", "num_attention_heads"):
            check_at_least(name, getattr(self, name))
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout}; give a probability from 0 to 1")
        if self.vision_layers is not None and not self.vision_layers:
            raise ValueError("vision_layers is empty; name at least one layer, or drop it for the last one")
        tie_word_embeddings = kwargs.pop("tie_word_embeddings", None)
        super().__post_init__(**kwargs)
        self.set_tied_head(tie_word_embeddings)
