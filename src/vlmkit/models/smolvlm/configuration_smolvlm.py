"""Configuration of [`SmolVLM`]."""

from typing import Any, ClassVar, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.compat.cache import CACHE_NAME
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.models.smolvlm.image_token_counts import default_num_query_tokens
from vlmkit.validation import check_at_least

# SmolLM-135M-Instruct with one additional token, the placeholder.
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
Connector = Literal["qformer", "perceiver", "mlp", "pixel_shuffle"]
Fusion = Literal["autoregressive", "cross_attention"]
CONNECTORS = get_args(Connector)
FUSIONS = get_args(Fusion)
_COUNTS = (
    "num_query_tokens",
    "num_cross_attention_heads",
    "cross_attention_frequency",
    "perceiver_depth",
    "pixel_shuffle_factor",
    "cross_layer_interval",
)


@strict
class VlmkitSmolVLMConfig(VlmkitConfig):
    """Configuration of a vision backbone, a connector and a causal language model.

    `connector` and `fusion` select a design (see `docs/guides/design.md`). The defaults are those of the original
    system: a Q-Former whose queries replace placeholders in the text.

    Args:
        vision_config: Configuration of an image backbone of transformers, or of timm as `timm_wrapper`. With
            [`PrecomputedVisionConfig`], the model has no vision tower and takes `vision_features`. Defaults to a
            ViT-B/16.
        text_config: Configuration of a causal language model of transformers. Defaults to SmolLM-135M.
        image_token_id: Id of the placeholder token, which image embeddings replace.
        connector: Module that maps vision features to image embeddings. `"qformer"` and `"perceiver"` return
            `num_query_tokens` embeddings for each image, `"mlp"` returns one for each patch, and `"pixel_shuffle"` one
            for each square of neighboring patches.
        fusion: Fusion of images and text. With `"autoregressive"`, image embeddings replace placeholders in the text.
            With `"cross_attention"`, the text has one placeholder for each image, and gated cross-attention between
            the decoder layers attends to the image embeddings.
        num_query_tokens: Number of image embeddings of a Q-Former or Perceiver. Defaults to 32 for a Q-Former and to
            64 for a Perceiver.
        num_cross_attention_heads: Number of heads with which a Q-Former or Perceiver attends to the image. Defaults to
            the number of heads of `qformer_config`, or of the language model for a Perceiver.
        qformer_config: Configuration of the text encoder whose layers the Q-Former has: DistilBERT, BERT (which
            includes MiniLM) or RoBERTa. Defaults to DistilBERT.
        cross_attention_frequency: Number of layers of the Q-Former from one attention to the image to the next. The
            second layer is the first of them. With 1, all layers attend to the image.
        perceiver_depth: Number of layers of the Perceiver resampler.
        pixel_shuffle_factor: Side of the squares, in patches.
        cross_layer_interval: With `fusion="cross_attention"`, the number of layers of the language model from one
            cross-attention to the next. The first is before the first layer.
        freeze_vision: Whether the vision backbone is frozen. Defaults to `True`.

    Raises:
        TypeError: If a keyword is unknown. The message suggests the most similar field.
        StrictDataclassFieldValidationError: If a value has the wrong type.
        ValueError: If a number is less than 1, the image token is not in the vocabulary, or `cross_layer_interval` is
            larger than the number of layers. Some constraints, such as the number of heads, are checked by the model.

    References:
        vlm-training (see `docs/papers.md`) for the defaults; Laurençon et al., "What matters when building
        vision-language models?" (arXiv:2405.02246) for the other designs and the defaults of the Perceiver.

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
    # Large, and not needed for metrics.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [CACHE_NAME, "image_hidden_states"]

    vision_config: PreTrainedConfig | dict | None = None
    qformer_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    image_token_id: int = 49152
    connector: Connector = "qformer"
    fusion: Fusion = "autoregressive"
    num_query_tokens: int | None = None
    num_cross_attention_heads: int | None = None
    cross_attention_frequency: int = 2
    perceiver_depth: int = 3
    pixel_shuffle_factor: int = 2
    cross_layer_interval: int = 4
    freeze_vision: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Validate the fields."""
        if self.num_query_tokens is None:
            self.num_query_tokens = default_num_query_tokens(self.connector)
        for name in _COUNTS:
            check_at_least(name, getattr(self, name))
        tie_word_embeddings = kwargs.pop("tie_word_embeddings", None)
        super().__post_init__(**kwargs)
        vocab_size = self.get_text_config().vocab_size
        if not 0 <= self.image_token_id < vocab_size:
            raise ValueError(
                f"`image_token_id` must be from 0 to {vocab_size - 1}, the vocabulary of the language model, but got "
                f"{self.image_token_id}. Use another id, or increase `text_config.vocab_size`."
            )
        num_layers = self.get_text_config().num_hidden_layers
        if self.fusion == "cross_attention" and self.cross_layer_interval > num_layers:
            raise ValueError(
                f"`cross_layer_interval` must be from 1 to {num_layers}, the number of layers of the language model, "
                f"but got {self.cross_layer_interval}."
            )
        self.set_tied_head(tie_word_embeddings)
