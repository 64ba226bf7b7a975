"""Placeholder of a vision backbone, for models that are trained on precomputed vision features."""

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel


@strict
class PrecomputedVisionConfig(PreTrainedConfig):
    """Vision configuration of a model without a vision tower, which takes `vision_features` computed elsewhere.

    Args:
        hidden_size: Width of the vision features.
    """

    model_type = "vlmkit_precomputed_vision"

    hidden_size: int = 768


class PrecomputedVisionModel(PreTrainedModel):
    """Vision backbone without parameters, which cannot encode images.

    Args:
        config: Configuration with the width of the vision features.
    """

    config: PrecomputedVisionConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PrecomputedVisionConfig):
        super().__init__(config)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: object) -> None:
        """Raise an error, because there is no vision tower.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "This model has no vision tower and cannot encode `pixel_values`. Pass `vision_features` of the shape "
            f"(images, tokens, {self.config.hidden_size}) instead."
        )
