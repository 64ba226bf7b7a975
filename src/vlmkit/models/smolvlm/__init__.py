"""SmolVLM: a small vision-language model for conversations about images."""

from vlmkit.models.smolvlm.configuration_smolvlm import VlmkitSmolVLMConfig
from vlmkit.models.smolvlm.image_processing_smolvlm import (
    VlmkitSmolVLMImageProcessor,
    VlmkitSmolVLMImageProcessorPil,
)
from vlmkit.models.smolvlm.modeling_smolvlm import SmolVLM, SmolVLMOutput, VlmkitSmolVLMModel
from vlmkit.models.smolvlm.processing_smolvlm import VlmkitSmolVLMProcessor

__all__ = [
    "SmolVLM",
    "SmolVLMOutput",
    "VlmkitSmolVLMConfig",
    "VlmkitSmolVLMImageProcessor",
    "VlmkitSmolVLMImageProcessorPil",
    "VlmkitSmolVLMModel",
    "VlmkitSmolVLMProcessor",
]
