"""Configuration of [`QFormerAligner`]."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.modules.temperature import check_temperature
from vlmkit.validation import check_at_least


@strict
class QFormerAlignerConfig(VlmkitConfig):
    """Configuration of an image backbone, a Q-Former and the losses that align images with texts.

    The defaults follow the original system, vlm-training.

    Args:
        vision_config: Configuration of an image backbone of transformers, or of timm as `timm_wrapper`. Defaults to a
            ViT-B/16.
        text_config: Configuration of the text encoder whose layers the Q-Former has: DistilBERT, BERT (which includes
            MiniLM) or RoBERTa. Defaults to DistilBERT.
        num_query_tokens: Number of learned queries, Q.
        num_cross_attention_heads: Number of heads with which queries attend to the image, a divisor of the width of
            the text encoder. Defaults to the number of heads of the text encoder.
        cross_attention_frequency: Number of layers from one attention to the image to the next. The second layer is
            the first of them. With 1, all layers attend to the image.
        contrastive_loss_weight: Weight of the contrastive loss, see [`info_nce`].
        matching_loss_weight: Weight of the image-text matching loss with hard negatives, see [`matching_loss`].
            Defaults to 0, which omits the loss and its head.
        captioning_loss_weight: Weight of the captioning loss, the cross-entropy of the next token given the queries.
            Defaults to 0, which omits the loss and its head.
        temperature: Divisor of the cosine similarities in the contrastive logits, or its initial value if it is
            learned.
        learn_temperature: Whether the temperature is learned. A learned temperature is kept at or above 0.01.
        original_causal_mask: Whether queries attend to the text in the captioning loss, as in the original. Text tokens
            can then access later ones through the queries.
        freeze_vision: Whether the vision backbone is frozen. Defaults to `True`.

    Raises:
        TypeError: If a keyword is unknown. The message suggests the most similar field.
        StrictDataclassFieldValidationError: If a value has the wrong type.
        ValueError: If a number is less than 1, a loss weight is negative or infinite, the contrastive and the matching
            loss are both disabled, or the temperature is out of range. Some constraints, such as the number of heads,
            are checked by the model.

    References:
        vlm-training (see `docs/papers.md`) for the defaults; Li et al., "BLIP-2" (arXiv:2301.12597, section 3.1) for
        the losses.

    Example:
        >>> config = QFormerAlignerConfig(matching_loss_weight=1.0)
        >>> config.vision_config.model_type, config.text_config.model_type, config.num_query_tokens
        ('vit', 'distilbert', 32)
    """

    model_type = "vlmkit_qformer_aligner"
    sub_configs_defaults = {  # noqa: RUF012 (a class attribute that transformers reads)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="distilbert"),
    }
    # Logits compare images and texts of one batch only, and losses are scalars. Metrics of a whole evaluation set use
    # the embeddings.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "logits_per_image",
        "logits_per_text",
        "contrastive_loss",
        "matching_loss",
        "captioning_loss",
    ]

    vision_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    num_query_tokens: int = 32
    num_cross_attention_heads: int | None = None
    cross_attention_frequency: int = 2
    contrastive_loss_weight: float | int = 1.0
    matching_loss_weight: float | int = 0.0
    captioning_loss_weight: float | int = 0.0
    temperature: float | int = 0.07
    learn_temperature: bool = False
    original_causal_mask: bool = False
    freeze_vision: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Validate the fields."""
        check_temperature(self.temperature, self.learn_temperature)
        for name in ("num_query_tokens", "num_cross_attention_heads", "cross_attention_frequency"):
            check_at_least(name, getattr(self, name))
        for name in ("contrastive_loss_weight", "matching_loss_weight", "captioning_loss_weight"):
            if not 0 <= (weight := getattr(self, name)) < float("inf"):
                raise ValueError(f"`{name}` must be a finite number of at least 0, but got {weight}.")
        if not (self.contrastive_loss_weight or self.matching_loss_weight):
            raise ValueError(
                "`contrastive_loss_weight` or `matching_loss_weight` must be positive, but both are 0. The captioning "
                "loss alone does not train the outputs of the queries."
            )
        if self.learn_temperature and not self.contrastive_loss_weight:
            raise ValueError(
                "`learn_temperature` must be `False` with `contrastive_loss_weight=0`, but got `True`. Only the "
                "contrastive loss trains the temperature."
            )
        super().__post_init__(**kwargs)
