"""What backbones of transformers and timm tell about themselves, and how they are built and called."""

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vlmkit.compat.auto_classes import model_class
from vlmkit.compat.initialized_weights import mark_as_initialized


def backbone_name(config: PreTrainedConfig) -> str:
    """What messages call a backbone: timm's architecture, else transformers' model type."""
    return getattr(config, "architecture", None) or config.model_type


def pooler_keywords(auto_class: Any, config: PreTrainedConfig) -> dict[str, bool]:
    """Leave out the tanh pooling layer of BERT-like models: it would be a randomly initialised layer or a dead one.

    Args:
        auto_class: of transformers, such as `AutoModel`.
        config: the backbone's.

    Returns:
        Keywords for the class's `from_config` and `from_pretrained`.

    Raises:
        ValueError: the class builds no model of such a configuration.
    """
    if (built := model_class(auto_class, config)) is None:
        raise ValueError(f"{backbone_name(config)} is no model that transformers' {auto_class.__name__} can build")
    parameters = inspect.signature(built.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def restore_timm_initialization(backbone: PreTrainedModel) -> None:
    """Undo what transformers does to a new timm model: normals of 0.02 everywhere, in which a CNN's signal dies out."""
    if next(backbone.parameters()).is_meta:  # weights are about to be loaded
        return
    import timm  # slow to import, and here already: the backbone was built with it

    config = backbone.config
    fresh = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
    backbone.timm_model.load_state_dict(fresh.state_dict())
    mark_as_initialized(backbone)


def features_size(backbone: PreTrainedModel) -> int:
    """Return the size D of the features that a backbone computes.

    Raises:
        ValueError: the configuration does not tell it.
    """
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        return timm_model.num_features
    config = backbone.config
    for width in (getattr(config, "hidden_size", None), (getattr(config, "hidden_sizes", None) or [None])[-1]):
        if width is not None:
            return width
    raise ValueError(
        f"{backbone_name(config)} tells no hidden_size, so its tokens' width is unknown; use another backbone"
    )


def num_prefix_tokens(backbone: PreTrainedModel) -> int:
    """How many class, distillation and register tokens precede the patch tokens."""
    timm_model = getattr(backbone, "timm_model", None)
    if hasattr(timm_model, "num_prefix_tokens"):
        return timm_model.num_prefix_tokens
    names = {name.rpartition(".")[2] for name, _ in backbone.named_parameters()}
    has_class_token = bool(names & {"cls_token", "class_embedding"})
    return has_class_token + ("distillation_token" in names) + (getattr(backbone.config, "num_register_tokens", 0) or 0)


def patch_size(backbone: PreTrainedModel) -> tuple[int, int] | None:
    """Height and width in pixels of what becomes one token; `None` where only the output tells."""
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        feature_info = getattr(timm_model, "feature_info", None)
        return _pair(feature_info[-1]["reduction"]) if feature_info else None
    config = backbone.config
    if getattr(config, "depths", None) or getattr(config, "hidden_sizes", None):
        return None  # of a network in stages, the patches of the first one are not those of the last
    return _pair(getattr(config, "patch_size", None))


def pretrained_size(backbone: PreTrainedModel) -> tuple[int, int] | None:
    """Height and width in pixels that the position embeddings are for; `None` if there are none (CNNs, rotary)."""
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        # XCiT counts as fixed, but its positions are no table: a layer computes them for any grid.
        computes_positions = isinstance(getattr(timm_model, "pos_embed", None), nn.Module)
        if computes_positions or not timm_model.pretrained_cfg.get("fixed_input_size"):
            return None
        size = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)
        return _pair(size or timm_model.pretrained_cfg["input_size"][1:])
    if not any("position" in name or "pos_embed" in name for name, _ in backbone.named_parameters()):
        return None
    return _pair(getattr(backbone.config, "image_size", None))


def interpolation_keywords(backbone: PreTrainedModel, size: tuple[int, int]) -> dict[str, Any]:
    """The keywords with which a backbone takes images of any size.

    Args:
        backbone: of transformers or timm.
        size: height and width of the images, in pixels.

    Returns:
        None at all at the pretrained size; else what lets the backbone interpolate its position embeddings.

    Raises:
        ValueError: the backbone takes no images of this size.
    """
    own = pretrained_size(backbone)
    if own is None or size == own:
        return {}
    name, fix = backbone_name(backbone.config), f"resize the images to {own[0]} x {own[1]}"
    if (timm_model := getattr(backbone, "timm_model", None)) is not None:
        if getattr(timm_model, "dynamic_img_size", False):
            return {}
        fix += ', or build it with vision_config.model_args={"dynamic_img_size": True}, if timm knows that for it'
    elif not any(hasattr(module, "interpolate_pos_encoding") for module in backbone.modules()):
        fix += ", or use another backbone"
    elif own[0] != own[1]:  # transformers would read the position embeddings as if they lay in a square
        fix += ", or use a backbone pretrained on square images"
    elif getattr(backbone.config, "window_size", None):  # transformers' Swin then shrinks its windows for good
        fix += ", or use timm's Swin"
    elif "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters:
        return {"interpolate_pos_encoding": True}
    else:
        return {}  # DINOv2 interpolates unasked
    raise ValueError(f"{name} takes images of {own[0]} x {own[1]} pixels, and none of {size[0]} x {size[1]}; {fix}")


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)
