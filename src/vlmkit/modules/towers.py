"""Base class of vision and text towers, and the configurations that they are built from."""

import os
from collections.abc import Callable

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from vlmkit.modules.freezing import Freezable


class Tower(Freezable):
    """A backbone of transformers that can be frozen, with a pooling of its tokens.

    Args:
        backbone: Pretrained or new model.
        pooling: Pooling of the tokens, see [`VisionTower`] and [`TextTower`].
        frozen: Whether the backbone is frozen.
    """

    def __init__(self, backbone: PreTrainedModel, *, pooling: str, frozen: bool = False):
        super().__init__(frozen)
        self.pooling = pooling
        self.set_backbone(backbone)

    def set_backbone(self, backbone: PreTrainedModel) -> None:
        """Replace the backbone with another one of the same shape, such as the pretrained one."""
        self.backbone = backbone
        self.freeze()
        self.train(self.training)


def get_vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the vision part of a configuration with two towers (CLIP, SigLIP), or else the configuration."""
    return getattr(config, "vision_config", None) or config


def get_text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the text part of a configuration with two towers (CLIP, SigLIP), or else the configuration."""
    return getattr(config, "text_config", None) or config


def load_backbone_config(
    name_or_path: str | os.PathLike, part: Callable[[PreTrainedConfig], PreTrainedConfig]
) -> PreTrainedConfig:
    """Load the configuration of a backbone.

    The path of a local folder is removed from the configuration, because it would be published with the model.

    Args:
        name_or_path: Folder or Hub id of the backbone.
        part: [`get_vision_config`] or [`get_text_config`].

    Raises:
        OSError: If the model cannot be found.
    """
    config = part(AutoConfig.from_pretrained(name_or_path))
    config._name_or_path = "" if os.path.isdir(name_or_path) else str(name_or_path)
    return config
