"""Build, train, evaluate and share small vision-language models with the APIs of Hugging Face transformers.

This module contains the models with their configurations, processors and outputs. Importing it registers them with the
Auto classes of transformers. Everything else is imported from a subpackage: `vlmkit.data`, `vlmkit.losses`,
`vlmkit.metrics`, `vlmkit.training`, `vlmkit.inference`, `vlmkit.analysis` and `vlmkit.conversion`.
"""

from vlmkit.compat.versions import warn_if_untested
from vlmkit.models.dual_encoder import (
    DualEncoderConfig,
    DualEncoderModel,
    DualEncoderOutput,
    DualEncoderProcessor,
)
from vlmkit.models.paired_cifar import (
    PairedCifarAligner,
    PairedCifarAlignerConfig,
    PairedCifarAlignerOutput,
    PairedCifarAlignerProcessor,
    PredictedCaption,
)
from vlmkit.models.qformer_aligner import (
    QFormerAligner,
    QFormerAlignerConfig,
    QFormerAlignerOutput,
    QFormerAlignerProcessor,
)
from vlmkit.models.qformer_captioner import (
    QFormerCaptioner,
    QFormerCaptionerConfig,
    QFormerCaptionerModel,
    QFormerCaptionerOutput,
    QFormerCaptionerProcessor,
)
from vlmkit.models.smolvlm import (
    SmolVLM,
    SmolVLMOutput,
    VlmkitSmolVLMConfig,
    VlmkitSmolVLMImageProcessor,
    VlmkitSmolVLMImageProcessorPil,
    VlmkitSmolVLMModel,
    VlmkitSmolVLMProcessor,
)
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig
from vlmkit.registration import register

warn_if_untested()
register()

__version__ = "0.1.0"

__all__ = [
    "DualEncoderConfig",
    "DualEncoderModel",
    "DualEncoderOutput",
    "DualEncoderProcessor",
    "PairedCifarAligner",
    "PairedCifarAlignerConfig",
    "PairedCifarAlignerOutput",
    "PairedCifarAlignerProcessor",
    "PrecomputedVisionConfig",
    "PredictedCaption",
    "QFormerAligner",
    "QFormerAlignerConfig",
    "QFormerAlignerOutput",
    "QFormerAlignerProcessor",
    "QFormerCaptioner",
    "QFormerCaptionerConfig",
    "QFormerCaptionerModel",
    "QFormerCaptionerOutput",
    "QFormerCaptionerProcessor",
    "SmolVLM",
    "SmolVLMOutput",
    "VlmkitSmolVLMConfig",
    "VlmkitSmolVLMImageProcessor",
    "VlmkitSmolVLMImageProcessorPil",
    "VlmkitSmolVLMModel",
    "VlmkitSmolVLMProcessor",
    "__version__",
]
