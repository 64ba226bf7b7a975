"""Configuration of [`DualEncoderModel`]."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.modules.temperature import check_temperature


@strict
class DualEncoderConfig(VlmkitConfig):
    """Two backbones, what of them is used and trained, and the loss. The defaults are the paper's.

    Args:
        vision_config: any image backbone of transformers, or of timm as `timm_wrapper`. Default: a ViT-B/16.
        text_config: any text model of transformers. Default: GPT-2.
        text_features: `"token_embeddings"` (the paper: token plus learned position embeddings, of which only the tables
            are built) or `"encoder"` (the text model's contextual states).
        vision_pooling: `"pooler"`, `"cls"`, `"mean"`, or `"auto"` for the first of these that the backbone has.
        text_pooling: `"mean"`, `"cls"` or `"last"`, over attended tokens.
        projection: `"vision_to_text"` (the paper: image vectors into the text's space) or `"shared"` (both sides into a
            space of `projection_dim`).
        projection_dim: width of the shared space; 512 with `"shared"`, and `None` otherwise.
        freeze_vision: whether the vision backbone stays as it is. Default: yes.
        freeze_text: whether the text backbone stays as it is. Default: yes.
        loss: `"info_nce"` or `"sigmoid"`.
        temperature: logits are cosine similarities divided by it; where training starts if it is learned.
        learn_temperature: whether the temperature is trained (never below 0.01).
        logit_bias: added to the logits of the `"sigmoid"` loss, and trained.

    Raises:
        TypeError: an unknown keyword (the message names the closest field).
        StrictDataclassFieldValidationError: a value of the wrong type, or none of the choices.
        ValueError: a temperature of 0 or below, a learned one below 0.01, a `projection_dim` below 1, or one without
            `"shared"`.

    References:
        "Which side should we scale?" (see `docs/papers.md`): `text_features`, `projection`, temperature 0.07.

    Example:
        >>> DualEncoderConfig(text_features="encoder", projection="shared").projection_dim
        512
    """

    model_type = "vlmkit_dual_encoder"
    sub_configs_defaults = {  # noqa: RUF012 (a class attribute that transformers reads)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt2"),
    }
    # Logits are those of one batch; over a whole evaluation set only the embeddings mean anything.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["logits_per_image", "logits_per_text"]

    vision_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    text_features: Literal["token_embeddings", "encoder"] = "token_embeddings"
    vision_pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    text_pooling: Literal["mean", "cls", "last"] = "mean"
    projection: Literal["vision_to_text", "shared"] = "vision_to_text"
    projection_dim: int | None = None
    freeze_vision: bool = True
    freeze_text: bool = True
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    temperature: float | int = 0.07
    learn_temperature: bool = False
    logit_bias: float | int = -10.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values and fill in the width of the shared space."""
        check_temperature(self.temperature, self.learn_temperature)
        if self.projection == "shared":
            self.projection_dim = 512 if self.projection_dim is None else self.projection_dim
            if self.projection_dim < 1:
                raise ValueError(f"projection_dim is {self.projection_dim}; give 1 or more, or leave it out for 512")
        elif self.projection_dim is not None:
            raise ValueError(
                f"projection_dim is {self.projection_dim}, but projection='vision_to_text' ends in the text's own "
                "width; drop it, or set projection='shared'"
            )
        super().__post_init__(**kwargs)
