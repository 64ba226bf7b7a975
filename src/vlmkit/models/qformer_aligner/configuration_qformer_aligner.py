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
    """An image backbone, the Q-Former behind it, and what it learns from. The defaults are the original's.

    Args:
        vision_config: any image backbone of transformers, or of timm as `timm_wrapper`. Default: a ViT-B/16.
        text_config: the text encoder whose layers the Q-Former has: DistilBERT, BERT (MiniLM) or RoBERTa. Default:
            DistilBERT.
        num_query_tokens: learned queries Q.
        num_cross_attention_heads: heads of the queries' attention to the image, a divisor of the text encoder's width;
            as many as its own if not given.
        cross_attention_frequency: the second layer and every so many layers after it look at the image; with 1, all.
        contrastive_loss_weight: of the contrastive loss between images and texts.
        matching_loss_weight: of the loss that tells true pairs from similar wrong ones.
        captioning_loss_weight: of the loss that predicts the next word of the caption.
        temperature: contrastive logits are cosine similarities divided by it; where training starts if it is learned.
        learn_temperature: whether the temperature is trained (never below 0.01).
        original_causal_mask: whether queries see the text while captions are predicted, as in the original, where
            words therefore see later ones.
        freeze_vision: whether the vision backbone stays as it is. Default: yes.

    Raises:
        TypeError: an unknown keyword (the message names the closest field).
        StrictDataclassFieldValidationError: a value of the wrong type.
        ValueError: a number below 1, a temperature or weights that cannot be. What only the built model can tell, such
            as heads that do not divide its width, is told when it is built.

    References:
        vlm-training (see `docs/papers.md`): all defaults. The losses: Li et al., "BLIP-2" (arXiv:2301.12597, section
        3.1).

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
    # Over a whole evaluation set only the embeddings mean anything: logits are those of one batch, losses are scalars.
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
        """Check the values."""
        check_temperature(self.temperature, self.learn_temperature)
        for name in ("num_query_tokens", "num_cross_attention_heads", "cross_attention_frequency"):
            check_at_least(name, getattr(self, name))
        for name in ("contrastive_loss_weight", "matching_loss_weight", "captioning_loss_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; give 0, or a positive number")
        if not (self.contrastive_loss_weight or self.matching_loss_weight):
            raise ValueError(
                "contrastive_loss_weight and matching_loss_weight are both 0, so that nothing trains what the queries "
                "end in; make one of them positive"
            )
        if self.learn_temperature and not self.contrastive_loss_weight:
            raise ValueError(
                "learn_temperature needs the contrastive loss; set learn_temperature=False, or a positive "
                "contrastive_loss_weight"
            )
        super().__post_init__(**kwargs)
