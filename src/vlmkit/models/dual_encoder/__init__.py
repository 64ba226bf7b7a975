"""DualEncoderModel: contrastive alignment of an image backbone with a text backbone."""

from vlmkit.models.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from vlmkit.models.dual_encoder.modeling_dual_encoder import DualEncoderModel, DualEncoderOutput
from vlmkit.models.dual_encoder.processing_dual_encoder import DualEncoderProcessor

__all__ = ["DualEncoderConfig", "DualEncoderModel", "DualEncoderOutput", "DualEncoderProcessor"]
