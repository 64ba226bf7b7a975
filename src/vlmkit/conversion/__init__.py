"""Checkpoints of the published systems, turned into vlmkit folders."""

from vlmkit.conversion.dual_encoder import convert_dual_encoder
from vlmkit.conversion.multimodel import convert_multimodel

__all__ = ["convert_dual_encoder", "convert_multimodel"]
