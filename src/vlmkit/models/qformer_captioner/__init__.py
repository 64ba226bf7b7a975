"""QFormerCaptioner: image captioning with a Q-Former between a vision encoder and a language model."""

from vlmkit.models.qformer_captioner.configuration_qformer_captioner import QFormerCaptionerConfig
from vlmkit.models.qformer_captioner.modeling_qformer_captioner import (
    QFormerCaptioner,
    QFormerCaptionerModel,
    QFormerCaptionerOutput,
)
from vlmkit.models.qformer_captioner.processing_qformer_captioner import QFormerCaptionerProcessor

__all__ = [
    "QFormerCaptioner",
    "QFormerCaptionerConfig",
    "QFormerCaptionerModel",
    "QFormerCaptionerOutput",
    "QFormerCaptionerProcessor",
]
