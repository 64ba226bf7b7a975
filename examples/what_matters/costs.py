"""Measure the cost of a model: peak memory of training and prefill time."""

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
    """Reset the memory peak of the GPU or, without a GPU, of the process (Linux only)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)  # release memory that was freed by an earlier row
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Return the memory peak since the last reset in MB.

    Without a GPU, this is the peak of the process including all libraries (NaN on systems other than Linux).
    """
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
    """Return the median prefill time of a prompt with its image, vision tower included, over `count` prompts."""
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
