"""QFormerAligner: a Q-Former that aligns images with texts, as in the first stage of BLIP-2."""

from vlmkit.models.qformer_aligner.configuration_qformer_aligner import QFormerAlignerConfig
from vlmkit.models.qformer_aligner.modeling_qformer_aligner import QFormerAligner, QFormerAlignerOutput
from vlmkit.models.qformer_aligner.processing_qformer_aligner import QFormerAlignerProcessor

__all__ = ["QFormerAligner", "QFormerAlignerConfig", "QFormerAlignerOutput", "QFormerAlignerProcessor"]
