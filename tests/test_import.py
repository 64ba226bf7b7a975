"""`import vlmkit` is light, and every public name is there and documented."""

import importlib
import json
import pkgutil

import pytest

import vlmkit
from tests.subprocesses import run_python

HEAVY = {"accelerate", "datasets", "evaluate", "matplotlib", "peft", "timm"}
# What vlmkit builds on loads some of them itself where they are installed (accelerate), so only what is new counts.
NEWLY_LOADED = """
import json, sys
from transformers import AutoConfig, AutoModel, PreTrainedModel, ProcessorMixin
before = set(sys.modules)
import vlmkit
print(json.dumps(sorted(set(sys.modules) - before)))
"""
PACKAGES = ["vlmkit", *(f"vlmkit.{module.name}" for module in pkgutil.iter_modules(vlmkit.__path__) if module.ispkg)]


def test_importing_vlmkit_loads_no_heavy_package():
    loaded = set(json.loads(run_python("-c", NEWLY_LOADED)))
    assert "vlmkit" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        public = getattr(module, name)
        assert not callable(public) or public.__doc__, f"{package}.{name} has no docstring"
