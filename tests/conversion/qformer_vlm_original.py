"""What a user of vlm-training has: its folder of a trained model, here a recorded tiny one, and the base model."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTConfig, ViTImageProcessor, ViTModel

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS = json.loads((GOLDEN / "qformer_vlm.json").read_text())
NUM_TOKENS = FACTS["base_config"]["vocab_size"]
WIDTH = FACTS["qformer_config"]["bert_config"]["dim"]
END = FACTS["base_config"]["eos_token_id"]


def recording() -> dict[str, torch.Tensor]:
    """Inputs and results of the original; `tests/golden/make_qformer_vlm.py` wrote them."""
    return load_file(GOLDEN / "qformer_vlm.safetensors")


def part(name: str) -> dict[str, torch.Tensor]:
    """The weights of a part of the checkpoint: `qformer`, `adapter`, `lora` or `base`."""
    weights = load_file(GOLDEN / "qformer_vlm_checkpoint.safetensors")
    return {key.removeprefix(f"{name}."): weights[key] for key in weights if key.startswith(f"{name}.")}


def write(folder: Path, base: str = "base") -> dict[str, Path]:
    """Write the checkpoint and the base model, without a tokenizer; returns the converter's arguments."""
    source = folder / "checkpoint"
    for name in ("checkpoint/qformer", "checkpoint/lora_adapter", base):
        (folder / name).mkdir(parents=True)
    torch.save(part("qformer"), source / "qformer/pytorch_model.bin")
    (source / "qformer/config.json").write_text(json.dumps(FACTS["qformer_config"]))
    torch.save(part("adapter"), source / "adapter.pt")
    save_file(part("lora"), source / "lora_adapter/adapter_model.safetensors")
    (source / "lora_adapter/adapter_config.json").write_text(json.dumps(FACTS["lora_config"]))
    save_file(part("base"), folder / base / "model.safetensors", metadata={"format": "pt"})
    (folder / base / "config.json").write_text(json.dumps(FACTS["base_config"]))
    return {"source": source, "base_model": folder / base}


def tokenizer(*further: str, num_words: int = NUM_TOKENS) -> PreTrainedTokenizerFast:
    """The base's: turns of ChatML, and words by their numbers."""
    vocab = {f"w{row}": row for row in range(num_words) if row not in (1, END)}
    vocab |= {"<|im_start|>": 1, "<|im_end|>": END} | {name: num_words + row for row, name in enumerate(further)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def write_vision_model(folder: Path, width: int = WIDTH) -> Path:
    """A ViT with its image processor."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
