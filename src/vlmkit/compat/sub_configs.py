"""Declaration of nested configurations, through a class that transformers does not document."""

from transformers.configuration_utils import SubConfigSpec

__all__ = ["SubConfigSpec"]
