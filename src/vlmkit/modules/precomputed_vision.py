"""An image backbone of which only the width is known."""

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel


@strict
class PrecomputedVisionConfig(PreTrainedConfig):
    """In place of a vision configuration: the images come as tokens of another model.

    Args:
        hidden_size: width of the tokens.
    """

    model_type = "vlmkit_precomputed_vision"

    hidden_size: int = 768


class PrecomputedVisionModel(PreTrainedModel):
    """Stands where a vision backbone would, without a parameter; it can encode no image.

    Args:
        config: see [`PrecomputedVisionConfig`].
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
        """Refuse images.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "this model has no vision tower, only the width of its tokens; give vision_features "
            f"(images, tokens, {self.config.hidden_size}) in place of pixel_values"
        )
