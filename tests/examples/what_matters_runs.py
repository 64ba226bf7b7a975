"""Runs of the scripts of examples/what_matters."""

from pathlib import Path

from tests.examples.scripts import EXAMPLES, run_script
from transformers import TrainerCallback

SCRIPTS = EXAMPLES / "what_matters"


def run(place: Path, script: str, *flags: object, callback: TrainerCallback | None = None) -> str:
    return run_script(f"what_matters/{script}", *flags, cwd=place, callback=callback)
