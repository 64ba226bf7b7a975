"""Everything runs offline, quietly, and on tiny models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors, and pytest-xdist uses the other cores


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
