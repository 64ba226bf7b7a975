"""Configuration of [`SmolVLM`]."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vlmkit.base import VlmkitConfig

# SmolLM-135M-Instruct, with one more token for the places of an image.
_TEXT_DEFAULTS = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49153,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


@strict
class VlmkitSmolVLMConfig(VlmkitConfig):
    """An image backbone, a Q-Former, and a language model that reads its queries. The defaults are the original's.

    Args:
        vision_config: any image backbone of transformers, or of timm as `timm_wrapper`; or [`GivenTokensConfig`], which
            tells nothing but the width of image tokens that are computed elsewhere. Default: a ViT-B/16.
        qformer_config: the text encoder whose layers the Q-Former has: DistilBERT, BERT (MiniLM) or RoBERTa. Default:
            DistilBERT.
        text_config: any causal language model of transformers. Default: SmolLM-135M.
        image_token_id: the token that holds an image's places in a text, `num_query_tokens` in a row.
        num_query_tokens: learned queries, which are the image's tokens in the language model.
        num_cross_attention_heads: heads of the queries' attention to the image, a divisor of the Q-Former's width; as
            many as its text encoder's if not given.
        cross_attention_frequency: the second layer and every so many layers after it look at the image; with 1, all.
        freeze_vision: whether the vision backbone stays as it is. Default: yes.

    Raises:
        TypeError: an unknown keyword (the message names the nearest field).
        StrictDataclassFieldValidationError: a value of the wrong type.
        ValueError: a number below 1, or an image token outside the vocabulary. What only the built model can tell, such
            as heads that do not divide its width, is told when it is built.

    References:
        vlm-training (see `docs/papers.md`): all defaults.

    Example:
        >>> config = VlmkitSmolVLMConfig(num_query_tokens=64)
        >>> config.vision_config.model_type, config.qformer_config.model_type, config.text_config.hidden_size
        ('vit', 'distilbert', 576)
    """

    model_type = "vlmkit_smolvlm"
    sub_configs_defaults = {  # noqa: RUF012 (a class attribute that transformers reads)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "qformer_config": SubConfigSpec(config_class=AutoConfig, model_type="distilbert"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama", init_kwargs=_TEXT_DEFAULTS),
    }
    # Of no use over a whole evaluation set, and large.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "image_hidden_states"]

    vision_config: PreTrainedConfig | dict | None = None
    qformer_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    image_token_id: int = 49152
    num_query_tokens: int = 32
    num_cross_attention_heads: int | None = None
    cross_attention_frequency: int = 2
    freeze_vision: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values."""
        for name in ("num_query_tokens", "num_cross_attention_heads", "cross_attention_frequency"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more")
        super().__post_init__(**kwargs)
        vocab_size = self.get_text_config().vocab_size
        if not 0 <= self.image_token_id < vocab_size:
            raise ValueError(
                f"image_token_id is {self.image_token_id}, but the language model knows 0 to {vocab_size - 1} only; "
                "give one of these, or a text_config with a larger vocab_size"
            )
        # transformers ties the weights of the parts only if the whole says so.
        self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
