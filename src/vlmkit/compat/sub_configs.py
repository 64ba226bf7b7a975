"""Declaring nested configurations, which transformers does through a class that it does not document."""

from transformers.configuration_utils import SubConfigSpec

__all__ = ["SubConfigSpec"]
