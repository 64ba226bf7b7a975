"""Captioners with weights so large that attention is far from uniform and every mistake shows."""

import copy

import torch
from tests import tiny
from transformers import PreTrainedConfig

from vlmkit import QFormerCaptioner

START, END = (tiny.qformer_captioner_processor().tokenizer.convert_tokens_to_ids(token) for token in ("<unk>", "<eos>"))
_TEXT = {"initializer_range": 0.2, "bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
TEXT: dict[str, PreTrainedConfig] = {
    "gpt_neo": tiny.gpt_neo_config(**_TEXT),
    "gpt2": tiny.text_config(**_TEXT),
    "llama": tiny.llama_config(**_TEXT, tie_word_embeddings=True),
}


def captioner(text: str = "gpt_neo", **config) -> QFormerCaptioner:
    """Also in the connector and the cross-attention, whose initial weights are small whatever the configuration."""
    torch.manual_seed(1)  # with many other seeds, a model repeats one word
    parts = {"vision_config": tiny.vision_config(initializer_range=0.5), "text_config": copy.deepcopy(TEXT[text])}
    model = QFormerCaptioner(tiny.qformer_captioner_config(**{**parts, **config})).eval()
    with torch.no_grad():
        for part in (model.model.connector, model.model.cross_attention):
            for name, parameter in part.named_parameters():
                parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
    return model
