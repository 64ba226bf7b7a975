"""Everything runs offline, quietly, and on tiny models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors, and pytest-xdist uses the other cores

# Tests of `make quick`, by the first part of their path or the beginning of their file name.
QUICK_PATHS = {"base", "compat", "losses", "metrics", "modules", "test_architecture.py", "test_validation.py"}
QUICK_FILES = ("test_configuration", "test_processing")
NOT_QUICK = {"test_hub.py", "test_ptb.py", "test_image_sizes.py"}


def pytest_collection_modifyitems(items):
    for item in items:
        path = item.path.relative_to(Path(__file__).parent)
        if path.name not in NOT_QUICK and (path.parts[0] in QUICK_PATHS or path.name.startswith(QUICK_FILES)):
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
