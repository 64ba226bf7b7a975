"""Converters from checkpoints of the original systems to folders for `from_pretrained`."""

from vlmkit.conversion.dual_encoder import convert_dual_encoder
from vlmkit.conversion.multimodel import convert_multimodel
from vlmkit.conversion.qformer_vlm import convert_qformer_vlm

__all__ = ["convert_dual_encoder", "convert_multimodel", "convert_qformer_vlm"]
