"""Loads checkpoints as somebody does who has never imported vlmkit.

    python tests/stranger.py '[{"source": "...", "inputs": "inputs.pt", "target": "..."}, ...]'

Prints a JSON list with a result for each job. Every job runs in a fork of a process that knows transformers only.
"""

import json
import multiprocessing
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor


def load_and_save(job: dict[str, str]) -> dict[str, str]:
    """Load `source` through its shim and save it to `target`, with `outputs.pt` for the given `inputs`.

    With `"without": "vlmkit"` that package is not to be found.
    """
    assert "vlmkit" not in sys.modules
    if "without" in job:
        sys.modules[job["without"]] = None
    try:
        config = AutoConfig.from_pretrained(job["source"], trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(job["source"], trust_remote_code=True)
        model = AutoModel.from_pretrained(job["source"], trust_remote_code=True)
    except ImportError as error:
        return {"error": str(error)}
    model.save_pretrained(job["target"])
    processor.save_pretrained(job["target"])
    with torch.no_grad():
        outputs = model(**torch.load(job["inputs"]))
    torch.save(outputs.loss, Path(job["target"], "loss.pt"))
    return {"config": type(config).__name__, "model": type(model).__name__, "processor": type(processor).__name__}


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(load_and_save, json.loads(sys.argv[1]), chunksize=1)))
