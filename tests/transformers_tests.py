"""transformers' own test mixins, imported from its source distribution.

`make test` fetches them (`tests/fetch_transformers_tests.py`). The distribution holds the top level of transformers'
tests folder only; the two mixins that it imports from below (export, generation) are empty here.
"""

import importlib
import sys
import types
from importlib.metadata import version
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent.parent / ".cache" / f"transformers-{version('transformers')}" / "tests"
_PACKAGE = "transformers_source_tests"


def load(module: str) -> types.ModuleType:
    """Import a module of transformers' tests, or skip the calling test module where they were not fetched."""
    if not _FOLDER.exists():
        pytest.skip("run `python tests/fetch_transformers_tests.py` first", allow_module_level=True)
    if _PACKAGE not in sys.modules:
        _add_module(_PACKAGE, __path__=[str(_FOLDER)])
        _add_module(f"{_PACKAGE}.exporters", __path__=[])
        _add_module(f"{_PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
        _add_module(f"{_PACKAGE}.generation", __path__=[])
        _add_module(f"{_PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
        _add_module("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)
    return importlib.import_module(f"{_PACKAGE}.{module}")


def _add_module(name: str, **attributes: object) -> None:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(attributes)
