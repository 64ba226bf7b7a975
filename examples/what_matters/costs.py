"""What a model costs: memory while it is trained, and time to read a prompt with an image."""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

_MB = 1024**2
_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Forget the peak so far: of the GPU, or of the process (Linux)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)  # or memory that an earlier row has freed would count
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """The peak since then in MB; without a GPU, of the process with all its libraries (NaN where there is no Linux)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _MB
    if not _STATUS.exists():
        return math.nan
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@torch.no_grad()
def prefill_milliseconds(
    model: PreTrainedModel, processor: ProcessorMixin, chats: Sequence[dict[str, Any]], count: int = 20
) -> float:
    """Median time of reading one prompt with its image, vision tower included, over some prompts."""
    model.eval()
    times = []
    for row in range(count):
        inputs = processor.apply_chat_template(
            [chats[row % len(chats)]["messages"]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        start = time.perf_counter()
        model(**inputs, logits_to_keep=1)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
