"""What a user of the original code has: two backbones and a trained projection, here of a recorded tiny checkpoint."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast, TimmWrapperConfig, TimmWrapperModel

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS = json.loads((GOLDEN / "dual_encoder.json").read_text())


def recording() -> dict[str, torch.Tensor]:
    """The checkpoint, inputs and results of the original; `tests/golden/make_dual_encoder.py` wrote them."""
    return load_file(GOLDEN / "dual_encoder.safetensors")


def write(folder: Path) -> dict[str, Path]:
    """Write backbones and projection; returns the converter's arguments."""
    golden = recording()

    vision = TimmWrapperModel(TimmWrapperConfig(architecture="vit_small_patch16_224", model_args=FACTS["vit"]))
    vision.timm_model.load_state_dict(under("vision.", golden))
    vision.save_pretrained(folder / "vision")

    text = GPT2Model(GPT2Config(**FACTS["gpt2"]))
    text.load_state_dict(under("text.", golden), strict=False)  # the original uses nothing but its tables
    text.save_pretrained(folder / "text")
    vocab = {f"w{row}": row for row in range(100)} | {"<|endoftext|>": 100}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder / "text")

    file = folder / "vit_small_to_gpt2.pt"
    torch.save(projection(golden), file)
    return {"projection_file": file, "vision": folder / "vision", "text": folder / "text"}


def projection(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: golden[name] for name in ("projection.weight", "projection.bias")}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensors[name] for name in sorted(tensors) if name.startswith(prefix)}
