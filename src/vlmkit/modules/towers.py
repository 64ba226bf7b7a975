"""What the vision and the text tower of a model have in common, and the configurations that they are built from."""

import os
from collections.abc import Callable

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from vlmkit.modules.freezing import Freezable


class Tower(Freezable):
    """A backbone of transformers, frozen or not, and how its tokens become one vector.

    Args:
        backbone: the model.
        pooling: how; see [`VisionTower`] and [`TextTower`].
        frozen: whether its parameters stay as they are.
    """

    def __init__(self, backbone: PreTrainedModel, *, pooling: str, frozen: bool = False):
        super().__init__(frozen)
        self.pooling = pooling
        self.set_backbone(backbone)

    def set_backbone(self, backbone: PreTrainedModel) -> None:
        """Put another backbone of the same shape in place, such as the pretrained one."""
        self.backbone = backbone
        self.freeze()
        self.train(self.training)


def get_vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The vision tower's configuration: of a two-tower one (CLIP, SigLIP) its vision part, else the whole."""
    return getattr(config, "vision_config", None) or config


def get_text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The text tower's configuration: of a two-tower one (CLIP, SigLIP) its text part, else the whole."""
    return getattr(config, "text_config", None) or config


def load_backbone_config(
    name_or_path: str | os.PathLike, part: Callable[[PreTrainedConfig], PreTrainedConfig]
) -> PreTrainedConfig:
    """The configuration of a backbone to build a model with; a local folder's path stays out of what is published.

    Args:
        name_or_path: a folder or hub id.
        part: [`get_vision_config`] or [`get_text_config`].

    Raises:
        OSError: there is no such model.
    """
    config = part(AutoConfig.from_pretrained(name_or_path))
    config._name_or_path = "" if os.path.isdir(name_or_path) else str(name_or_path)
    return config
