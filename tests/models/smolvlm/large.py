"""Chat models with weights so large that attention is far from uniform, and a mistake in it shows; without dropout."""

import copy

import torch
from tests import tiny
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from vlmkit import SmolVLM

_TEXT = {"initializer_range": 0.3, **tiny.CHAT_TOKENS}
TEXT: dict[str, PreTrainedConfig] = {
    "llama": tiny.llama_config(**_TEXT, tie_word_embeddings=True),
    "gpt2": tiny.text_config(**_TEXT, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gpt_neo": tiny.gpt_neo_config(**_TEXT),
}
IMAGE = [tiny.IMAGE_TOKEN_ID] * 3


def chat_model(text: str = "llama", **config) -> SmolVLM:
    """Also between its parts, whose initial weights are small whatever the configuration."""
    torch.manual_seed(0)
    parts = {
        "vision_config": tiny.vision_config(initializer_range=0.5),
        "qformer_config": tiny.distilbert_config(dropout=0.0, attention_dropout=0.0),
        "text_config": copy.deepcopy(TEXT[text]),
    }
    model = SmolVLM(tiny.smolvlm_config(**{**parts, **config})).eval()
    model.generation_config.suppress_tokens = [tiny.IMAGE_TOKEN_ID]
    with torch.no_grad():
        for name, parameter in model.model.connector.named_parameters():
            parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
    return model


def language_model(model: SmolVLM) -> PreTrainedModel:
    """The language model alone, with its head."""
    alone = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    alone.get_decoder().load_state_dict(model.model.language_model.state_dict())
    alone.get_output_embeddings().load_state_dict(model.lm_head.state_dict())
    return alone


def language_model_logits(model: SmolVLM, **inputs: torch.Tensor) -> torch.Tensor:
    """The logits of the language model alone."""
    return language_model(model)(**inputs).logits


def prompts() -> dict[str, torch.Tensor]:
    """Questions about two images, none and one, padded on the left."""
    two = [tiny.turn("user", "is this", tiny.photo(), tiny.photo(seed=1))]
    none = [tiny.turn("user", "a dog and a cat on the grass")]
    one = [tiny.turn("user", "is this a small red circle", tiny.photo(seed=2))]
    wanted = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return dict(tiny.smolvlm_processor().apply_chat_template([two, none, one], **wanted))
