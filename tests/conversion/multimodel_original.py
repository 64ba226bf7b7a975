"""What a user of the original code has: a trained captioner, here a recorded tiny checkpoint, and its tokenizer."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, GPTNeoConfig, PreTrainedTokenizerFast

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS = json.loads((GOLDEN / "multimodel.json").read_text())
PAD, START, END = (FACTS["wrapper"][name] for name in ("pad_token_id", "start_id", "end_id"))


def recording() -> dict[str, torch.Tensor]:
    """The checkpoint, inputs and results of the original; `tests/golden/make_multimodel.py` wrote them."""
    return {name: value for file in GOLDEN.glob("multimodel*.safetensors") for name, value in load_file(file).items()}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensors[name] for name in sorted(tensors) if name.startswith(prefix)}


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def checkpoint() -> dict:
    """The whole of `checkpoint.pth`: with every weight that nothing uses, and every second copy."""
    golden = recording()
    vision, language_model = under("encoder.clip.vision_model.", golden), under("gpt_decoder.", golden)
    language_model["lm_head.weight"] = language_model["transformer.wte.weight"]
    width = FACTS["wrapper"]["embed_size"]
    return {
        "encoder_state_dict": {
            **prefixed("clip.", CLIPModel(CLIPConfig(**FACTS["clip_config"])).state_dict()),
            **prefixed("clip.vision_model.", vision),
            **prefixed("vision.", vision),
            **prefixed("proj.", under("encoder.proj.", golden)),
        },
        "decoder_state_dict": {
            **under("decoder.", golden),
            **prefixed("gpt_decoder.", language_model),
            "query_proj.weight": torch.ones(width, width),
            "query_proj.bias": torch.ones(width),
        },
        "gpt_decoder_state_dict": language_model,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 2e-4}]},
        "epoch": 0,
        "loss": 9.1,
        "global_step": 100,
        "config": FACTS["checkpoint_config"],
    }


def write_hub_layout(folder: Path) -> None:
    folder.mkdir()
    for part in ("encoder", "decoder", "gpt_decoder"):
        tensors = checkpoint()[f"{part}_state_dict"]
        # safetensors refuses tensors that share their memory.
        save_file({name: value.clone() for name, value in tensors.items()}, folder / f"{part}.safetensors")
    (folder / "config.json").write_text(json.dumps(FACTS["checkpoint_config"]))


def tokenizer(num_words: int = PAD) -> PreTrainedTokenizerFast:
    """GPT-Neo's as published: one special token, which ends a text."""
    vocab = {f"w{row}": row for row in range(num_words)} | {"<|endoftext|>": num_words}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def write(folder: Path, vision: str = "vision", text: str = "text") -> dict[str, Path]:
    """Write the checkpoint, the backbones' configurations and the tokenizer; returns the converter's arguments."""
    torch.save(checkpoint(), folder / "checkpoint.pth")
    CLIPVisionConfig(**FACTS["clip_config"]["vision_config"]).save_pretrained(folder / vision)
    GPTNeoConfig(**FACTS["gpt_neo_config"]).save_pretrained(folder / text)
    tokenizer().save_pretrained(folder / text)
    return {
        "source": folder / "checkpoint.pth",
        "vision_config": folder / vision,
        "text_config": folder / text,
        "tokenizer": folder / text,
    }
