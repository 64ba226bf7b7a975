"""Build, train, evaluate and ship small vision-language models the Hugging Face way.

Importing vlmkit makes its models known to transformers' Auto classes. Everything that is not a model lives one level
down (`vlmkit.data`, `vlmkit.losses`, `vlmkit.metrics`, `vlmkit.training`, `vlmkit.analysis`, `vlmkit.conversion`), and
is imported from there.
"""

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
    QFormerCaptionerOutput,
    QFormerCaptionerProcessor,
)
from vlmkit.models.smolvlm import (
    SmolVLM,
    SmolVLMOutput,
    VlmkitSmolVLMConfig,
    VlmkitSmolVLMImageProcessor,
    VlmkitSmolVLMImageProcessorPil,
    VlmkitSmolVLMProcessor,
)
from vlmkit.modules.given_tokens import GivenTokensConfig
from vlmkit.registration import register

register()

__version__ = "0.1.0"

__all__ = [
    "DualEncoderConfig",
    "DualEncoderModel",
    "DualEncoderOutput",
    "DualEncoderProcessor",
    "GivenTokensConfig",
    "PairedCifarAligner",
    "PairedCifarAlignerConfig",
    "PairedCifarAlignerOutput",
    "PairedCifarAlignerProcessor",
    "PredictedCaption",
    "QFormerAligner",
    "QFormerAlignerConfig",
    "QFormerAlignerOutput",
    "QFormerAlignerProcessor",
    "QFormerCaptioner",
    "QFormerCaptionerConfig",
    "QFormerCaptionerOutput",
    "QFormerCaptionerProcessor",
    "SmolVLM",
    "SmolVLMOutput",
    "VlmkitSmolVLMConfig",
    "VlmkitSmolVLMImageProcessor",
    "VlmkitSmolVLMImageProcessorPil",
    "VlmkitSmolVLMProcessor",
    "__version__",
]
