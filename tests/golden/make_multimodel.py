"""Writes `multimodel*.safetensors` and `multimodel.json`, which `tests/conversion/test_multimodel.py` reads.

They reduce a recording of the original code of MultiModel (multimodel_v0, commit 1744f94): a tiny random checkpoint,
two images and captions, and what the original computed from them (float32, evaluation mode). Left out are the second
copies of image encoder and language model that a checkpoint holds, and the weights that nothing uses (CLIP's text side,
`query_proj`), which `tests/conversion/multimodel_original.py` puts back; and captions sampled with random numbers.

    python tests/golden/make_multimodel.py path/to/seed2.pt    # reads seed2.json beside it
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

source = Path(sys.argv[1])
recording = torch.load(source, weights_only=True)
description = json.loads(source.with_suffix(".json").read_text())
checkpoint, expected = recording["checkpoint"], recording["expected"]

encoder, decoder = checkpoint["encoder_state_dict"], checkpoint["decoder_state_dict"]
encoder = {name: encoder[name] for name in encoder if name.startswith(("clip.vision_model.", "proj."))}
decoder = {name: decoder[name] for name in decoder if not name.startswith(("gpt_decoder.", "query_proj."))}
results = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
del results["decoder_cross_attn_norm_out"]  # the model does not return it
for group in ("grads", "similarity"):
    results |= {f"{group}.{name}": value for name, value in expected[group].items()}

# A file for each part, as none may be larger than 1 MB; the decoder's attention to the queries goes with the rest.
files: dict[str, dict[str, torch.Tensor]] = {
    "multimodel": {f"inputs.{name}": value for name, value in recording["inputs"].items()}
    | {f"expected.{name}": value for name, value in results.items()}
    | {f"encoder.{name}": value for name, value in encoder.items()},
    "multimodel_qformer": {},
    "multimodel_language_model": {
        f"gpt_decoder.{name}": value
        for name, value in checkpoint["gpt_decoder_state_dict"].items()
        if name != "lm_head.weight"  # the token table once more
    },
}
for name, value in decoder.items():
    part = "multimodel" if name.startswith(("decoder_cross_attn", "cross_scale")) else "multimodel_qformer"
    files[part][f"decoder.{name}"] = value

folder = Path(__file__).parent
for file, tensors in files.items():
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"{file}.safetensors")
kept = {name: description[name] for name in ("versions", "clip_config", "gpt_neo_config", "wrapper", "generate")}
kept["generate"] = {name: ids for name, ids in kept["generate"].items() if name.startswith("greedy")}
kept["checkpoint_config"] = checkpoint["config"]
(folder / "multimodel.json").write_text(json.dumps(kept, indent=1) + "\n")
