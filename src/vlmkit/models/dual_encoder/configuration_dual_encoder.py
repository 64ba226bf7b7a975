"""Configuration of [`DualEncoderModel`]."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.modules.temperature import check_temperature
from vlmkit.validation import check_at_least


@strict
class DualEncoderConfig(VlmkitConfig):
    """Configuration of an image backbone, a text backbone, their projections and a contrastive loss.

    The defaults follow the paper "Which side should we scale?".

    Args:
        vision_config: Configuration of an image backbone of transformers, or of timm as `timm_wrapper`. Defaults to a
            ViT-B/16.
        text_config: Configuration of a text model of transformers. Defaults to GPT-2.
        text_features: Text features to pool. `"token_embeddings"` uses token plus learned position embeddings, as in
            the paper, and other parameters of the text model are not built. `"encoder"` uses the last hidden states.
        vision_pooling: `"pooler"` (pooled output of the backbone), `"cls"` (class token), `"mean"` (mean over patches)
            or `"auto"` (the first of these three that the backbone supports).
        text_pooling: Pooling of attended tokens: `"mean"`, `"cls"` (the first token) or `"last"`.
        projection: Linear layers to the joint embedding space. `"vision_to_text"` projects images to the width of the
            text features, as in the paper. `"shared"` projects images and texts to `projection_dim`.
        projection_dim: Width of the shared space. Defaults to 512 with `projection="shared"`, and must be `None`
            otherwise.
        freeze_vision: Whether the vision backbone is frozen. Defaults to `True`.
        freeze_text: Whether the text backbone is frozen. Defaults to `True`.
        loss: `"info_nce"` (see [`info_nce`]) or `"sigmoid"` (see [`sigmoid_loss`]).
        temperature: Divisor of the cosine similarities in the logits, or its initial value if it is learned.
        learn_temperature: Whether the temperature is learned. A learned temperature is kept at or above 0.01.
        logit_bias: Initial value of the learned bias of the logits, with `loss="sigmoid"`.

    Raises:
        TypeError: If a keyword is unknown. The message suggests the most similar field.
        StrictDataclassFieldValidationError: If a value has the wrong type, or is not one of the choices.
        ValueError: If the temperature is not positive, a learned temperature starts below 0.01, `projection_dim` is
            less than 1, or it is given without `projection="shared"`.

    References:
        "Which side should we scale?" (see `docs/papers.md`) for the defaults; Zhai et al., "Sigmoid Loss for Language
        Image Pre-Training" (arXiv:2303.15343) for `loss="sigmoid"` and `logit_bias`.

    Example:
        >>> DualEncoderConfig(text_features="encoder", projection="shared").projection_dim
        512
    """

    model_type = "vlmkit_dual_encoder"
    sub_configs_defaults = {  # noqa: RUF012 (a class attribute that transformers reads)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt2"),
    }
    # Logits compare images and texts of one batch only. Metrics of a whole evaluation set use the embeddings.
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
        """Validate the fields, and set the default width of the shared space."""
        check_temperature(self.temperature, self.learn_temperature)
        if self.projection == "shared":
            self.projection_dim = 512 if self.projection_dim is None else self.projection_dim
            check_at_least("projection_dim", self.projection_dim)
        elif self.projection_dim is not None:
            raise ValueError(
                "`projection_dim` must be `None` with `projection='vision_to_text'`, which projects to the width of "
                f"the text features, but got {self.projection_dim}. Omit it, or set `projection='shared'`."
            )
        super().__post_init__(**kwargs)
