"""Causal language models from their configuration."""

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


def causal_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a language model that sees only what comes before the word it predicts.

    Args:
        config: of any such model of transformers.

    Raises:
        ValueError: it is another kind of model, or one that sees the words it shall predict.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model; give one, such as gpt2 or llama")
    model = AutoModelForCausalLM.from_config(config)
    # GPT-NeoX is causal and no "decoder"; the families of BERT are causal as decoders only.
    is_causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if not (is_causal or getattr(model.config, "is_decoder", True)):
        raise ValueError(f"{config.model_type} sees the words that it shall predict; set text_config.is_decoder=True")
    return model
