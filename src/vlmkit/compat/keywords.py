"""Keywords that transformers itself accepts, and those that inference servers pass through its models.

Needed by every supported release: transformers silently accepts unknown keywords, and offers no public list of its own.
"""

from transformers import GenerationConfig
from transformers.utils import TransformersKwargs

# Keywords that are not fields but that `PreTrainedConfig` reads or writes itself.
_CONFIG_KEYWORDS = {
    "attn_implementation",
    "auto_map",
    "compression_config",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_weights",
    "use_cache",
}

# vLLM and SGLang call the headless model with these, and read them in their own attention function.
SERVER_KEYWORDS = frozenset({"attention_instances", "forward_batch"})


def config_keywords() -> set[str]:
    """Return the keywords that every configuration accepts in addition to its fields."""
    return _CONFIG_KEYWORDS | GenerationConfig._get_default_generation_params().keys()


def forward_keywords() -> set[str]:
    """Return the keywords that every transformers model accepts in `forward`."""
    return set(TransformersKwargs.__annotations__)
