"""Properties of the backbones of transformers and timm, read from their configurations and modules."""

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vlmkit.compat.auto_classes import model_class
from vlmkit.compat.initialized_weights import mark_as_initialized


def backbone_name(config: PreTrainedConfig) -> str:
    """Return the name of a backbone in messages: the architecture in timm, or the model type in transformers."""
    return getattr(config, "architecture", None) or config.model_type


def pooler_keywords(auto_class: Any, config: PreTrainedConfig) -> dict[str, bool]:
    """Return the keywords that omit the pooling layer of BERT-like models, which would not be trained.

    Args:
        auto_class: Auto class of transformers, such as `AutoModel`.
        config: Configuration of the backbone.

    Returns:
        Keywords for `from_config` and `from_pretrained` of the Auto class.

    Raises:
        ValueError: If the Auto class does not support the configuration.
    """
    if (built := model_class(auto_class, config)) is None:
        raise ValueError(f"Model type {backbone_name(config)!r} is not supported by {auto_class.__name__}.")
    parameters = inspect.signature(built.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def restore_timm_initialization(backbone: PreTrainedModel) -> None:
    """Initialize a timm model as timm does.

    transformers draws all weights from a normal distribution with a standard deviation of 0.02, which is too small for
    CNNs: the features would be almost constant.
    """
    if next(backbone.parameters()).is_meta:  # weights are about to be loaded
        return
    import timm  # imported here because it is slow, and has been imported to build the backbone

    config = backbone.config
    fresh = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
    backbone.timm_model.load_state_dict(fresh.state_dict())
    mark_as_initialized(backbone)


def features_size(backbone: PreTrainedModel) -> int:
    """Return the width D of the features of a backbone.

    Raises:
        ValueError: If the configuration does not contain the width.
    """
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        return timm_model.num_features
    config = backbone.config
    for width in (getattr(config, "hidden_size", None), (getattr(config, "hidden_sizes", None) or [None])[-1]):
        if width is not None:
            return width
    raise ValueError(
        f"The configuration of {backbone_name(config)} must have a `hidden_size`, but has none. Use another backbone."
    )


def num_prefix_tokens(backbone: PreTrainedModel) -> int:
    """Return the number of class, distillation and register tokens, which precede the patch tokens."""
    if (number := getattr(getattr(backbone, "timm_model", None), "num_prefix_tokens", None)) is not None:
        return number
    names = {name.rpartition(".")[2] for name, _ in backbone.named_parameters()}
    has_class_token = bool(names & {"cls_token", "class_embedding"})
    return has_class_token + ("distillation_token" in names) + (getattr(backbone.config, "num_register_tokens", 0) or 0)


def patch_size(backbone: PreTrainedModel) -> tuple[int, int] | None:
    """Return height and width of a patch in pixels, or `None` if they can only be measured from an output."""
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        feature_info = getattr(timm_model, "feature_info", None)
        return _pair(feature_info[-1]["reduction"]) if feature_info else None
    config = backbone.config
    if getattr(config, "depths", None) or getattr(config, "hidden_sizes", None):
        return None  # a network with several stages has larger patches in its last stage
    return _pair(getattr(config, "patch_size", None))


def pretrained_size(backbone: PreTrainedModel) -> tuple[int, int] | None:
    """Return the image height and width of the position embeddings, or `None` without such (CNNs, rotary)."""
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        # timm lists XCiT with a fixed input size, but a layer computes its position embeddings for any grid.
        computes_positions = isinstance(getattr(timm_model, "pos_embed", None), nn.Module)
        if computes_positions or not timm_model.pretrained_cfg.get("fixed_input_size"):
            return None
        size = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)
        return _pair(size or timm_model.pretrained_cfg["input_size"][1:])
    if not any("position" in name or "pos_embed" in name for name, _ in backbone.named_parameters()):
        return None
    return _pair(getattr(backbone.config, "image_size", None))


def interpolation_keywords(backbone: PreTrainedModel, size: tuple[int, int]) -> dict[str, Any]:
    """Return the keywords of `forward` with which a backbone accepts images of another size.

    Args:
        backbone: Backbone of transformers or timm.
        size: Height and width of the images in pixels.

    Returns:
        Keywords that interpolate the position embeddings. Empty for the pretrained size, and for backbones that need
        no keyword.

    Raises:
        ValueError: If the backbone does not support this size.
    """
    own = pretrained_size(backbone)
    if own is None or size == own:
        return {}
    name, fix = backbone_name(backbone.config), f"Resize the images to {own[0]} x {own[1]}"
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        if getattr(timm_model, "dynamic_img_size", False):
            return {}
        fix += ', or set `vision_config.model_args={"dynamic_img_size": True}` if the timm model supports it'
    elif not any(hasattr(module, "interpolate_pos_encoding") for module in backbone.modules()):
        fix += ", or use another backbone"
    elif own[0] != own[1]:  # transformers assumes a square grid of position embeddings
        fix += ", or use a backbone pretrained on square images"
    elif getattr(backbone.config, "window_size", None):  # Swin of transformers would permanently shrink its windows
        fix += ", or use timm's Swin"
    elif "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters:
        return {"interpolate_pos_encoding": True}
    else:
        return {}  # DINOv2 always interpolates
    raise ValueError(
        f"The image size of {name} must be {own[0]} x {own[1]} pixels, but got {size[0]} x {size[1]}. {fix}."
    )


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)
