"""Writes `dual_encoder.safetensors` and `dual_encoder.json`, which `tests/conversion/test_dual_encoder.py` reads.

They reduce a recording of the original code of "Which side should we scale?" (CSNLP_PROJECT, commit 385da38): a tiny
random checkpoint, 12 images and captions, and what the original computed from them (float32, evaluation mode). Left out
are the images' 3.6 MB of pixel values, which torchvision computes again without any difference, and the text embeddings
of captions one by one, which are those of the batch.

    python tests/golden/make_dual_encoder.py path/to/seed0.pt    # reads seed0.json beside it
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

source = Path(sys.argv[1])
recording = torch.load(source, weights_only=True)
description = json.loads(source.with_suffix(".json").read_text())
checkpoint, inputs, expected = recording["checkpoint"], recording["inputs"], recording["expected"]

tensors = {
    **{f"vision.{name}": value for name, value in checkpoint["vision_encoder(timm state dict)"].items()},
    **{f"text.{table}.weight": checkpoint[table] for table in ("wte", "wpe")},
    **checkpoint["checkpoints/{v}_to_{l}.pt"],
    **{f"images.{row:02}": image for row, image in enumerate(inputs["images_uint8"])},
    **{name: inputs[name] for name in ("input_ids", "attention_mask")},
    **{name: value for name, value in expected.items() if isinstance(value, torch.Tensor)},
    **{f"{run}.{name}": expected[run][name] for run in expected if "final" in run for name in expected[run]},
}
del tensors["text_embeddings_one_by_one"]
folder = Path(__file__).parent
save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "dual_encoder.safetensors")
kept = {name: description[name] for name in ("versions", "vit", "gpt2", "temperature", "captions", "recall")}
del kept["vit"]["num_classes"]  # which transformers sets itself
(folder / "dual_encoder.json").write_text(json.dumps(kept, indent=1) + "\n")
