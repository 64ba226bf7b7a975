"""`import vlmkit` is light, and every public name is there and documented."""

import importlib
import json
import pkgutil

import pytest

import vlmkit
from tests.subprocesses import run_python

# Packages that must not be imported by a module. Each list holds for all modules before it as well.
LAZY = {
    "vlmkit": ["accelerate", "datasets", "evaluate", "matplotlib", "peft", "timm"],
    "vlmkit.metrics": ["evaluate", "pycocoevalcap"],
    "vlmkit.analysis.projection": ["sklearn"],
    "vlmkit.analysis.plots": ["matplotlib.pyplot"],
    "vlmkit.analysis.pair_plots": ["matplotlib.pyplot"],
    "vlmkit.analysis.caption_plots": ["matplotlib.pyplot"],
}
# transformers itself imports some of them if they are installed (accelerate), so only new imports count.
NEWLY_IMPORTED = """
import importlib, json, sys
from transformers import AutoConfig, AutoModel, PreTrainedModel, ProcessorMixin
before, imported = set(sys.modules), {}
for module in sys.argv[1:]:
    importlib.import_module(module)
    imported[module] = sorted(set(sys.modules) - before)
print(json.dumps(imported))
"""
PACKAGES = ["vlmkit", *(f"vlmkit.{module.name}" for module in pkgutil.iter_modules(vlmkit.__path__) if module.ispkg)]


@pytest.fixture(scope="module")
def newly_imported() -> dict[str, list[str]]:
    return json.loads(run_python("-c", NEWLY_IMPORTED, *LAZY))


@pytest.mark.parametrize("module", LAZY)
def test_heavy_packages_are_imported_where_they_are_used(module, newly_imported):
    assert module in newly_imported[module]
    assert not set(LAZY[module]) & set(newly_imported[module])


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        public = getattr(module, name)
        assert not callable(public) or public.__doc__, f"{package}.{name} has no docstring"
