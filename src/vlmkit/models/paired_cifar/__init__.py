"""PairedCifarAligner: alignment of pairs of CIFAR-100 images with captions of both images."""

from vlmkit.models.paired_cifar.configuration_paired_cifar import PairedCifarAlignerConfig
from vlmkit.models.paired_cifar.modeling_paired_cifar import (
    PairedCifarAligner,
    PairedCifarAlignerOutput,
    PredictedCaption,
)
from vlmkit.models.paired_cifar.processing_paired_cifar import PairedCifarAlignerProcessor

__all__ = [
    "PairedCifarAligner",
    "PairedCifarAlignerConfig",
    "PairedCifarAlignerOutput",
    "PairedCifarAlignerProcessor",
    "PredictedCaption",
]
