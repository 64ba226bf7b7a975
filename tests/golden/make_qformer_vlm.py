"""Writes `qformer_vlm*.safetensors` and `qformer_vlm.json`, which `tests/conversion/test_qformer_vlm.py` reads.

They reduce a recording of the original code of vlm-training (commit 46916fd): a tiny random checkpoint with its base
language model, image features and texts, and what the original computed from them (float32, evaluation mode). Left out
are what needs no checkpoint (recall of given embeddings), attention masks, and replies sampled with random numbers.

    python tests/golden/make_qformer_vlm.py path/to/seed4.pt    # reads seed4.json and seed4_ckpt beside it
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

source = Path(sys.argv[1])
checkpoint = source.with_name("seed4_ckpt")
recording = torch.load(source, weights_only=True)
description = json.loads(source.with_suffix(".json").read_text())


def flat(tree: dict, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of nested dictionaries under dotted names."""
    tensors = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            tensors |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            tensors[f"{prefix}{name}"] = value
    return tensors


def is_used(name: str) -> bool:
    return not name.endswith(".mask") and not name.startswith(("inputs.recall", "expected.generate"))


states = {
    "qformer": torch.load(checkpoint / "qformer/pytorch_model.bin", weights_only=True),
    "adapter": torch.load(checkpoint / "adapter.pt", weights_only=True),
    "lora": load_file(checkpoint / "lora_adapter/adapter_model.safetensors"),
    "base": load_file(checkpoint / "base_llm.safetensors"),
}
tensors = flat({"inputs": recording["inputs"], "expected": recording["expected"]}, "")
# Two files, as none may be larger than 1 MB.
files = {
    "qformer_vlm": {name: value for name, value in tensors.items() if is_used(name)},
    "qformer_vlm_checkpoint": flat(states, ""),
}
folder = Path(__file__).parent
for file, content in files.items():
    save_file({name: value.contiguous() for name, value in content.items()}, folder / f"{file}.safetensors")
kept = {name: description[name] for name in ("versions", "generate_assistant_ids")}
kept["generate"] = {name: ids[0] for name, ids in description["generate"].items() if name.startswith("near_greedy")}
kept["qformer_config"] = json.loads((checkpoint / "qformer/config.json").read_text())
kept["lora_config"] = json.loads((checkpoint / "lora_adapter/adapter_config.json").read_text())
kept["base_config"] = json.loads((checkpoint / "base_llm_config.json").read_text())
(folder / "qformer_vlm.json").write_text(json.dumps(kept, indent=1) + "\n")
