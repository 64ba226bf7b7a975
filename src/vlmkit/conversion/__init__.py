"""Checkpoints of the published systems, turned into vlmkit folders."""

from vlmkit.conversion.dual_encoder import convert_dual_encoder

__all__ = ["convert_dual_encoder"]
