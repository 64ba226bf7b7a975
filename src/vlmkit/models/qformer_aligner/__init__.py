"""QFormerAligner: a text encoder that learns to look at images through queries."""

from vlmkit.models.qformer_aligner.configuration_qformer_aligner import QFormerAlignerConfig
from vlmkit.models.qformer_aligner.modeling_qformer_aligner import QFormerAligner, QFormerAlignerOutput
from vlmkit.models.qformer_aligner.processing_qformer_aligner import QFormerAlignerProcessor

__all__ = ["QFormerAligner", "QFormerAlignerConfig", "QFormerAlignerOutput", "QFormerAlignerProcessor"]
