"""Runs of the scripts of examples/what_matters."""

from pathlib import Path

import pytest
from tests.examples import smolvlm_runs
from transformers import TrainerCallback

SCRIPTS = smolvlm_runs.ROOT / "examples" / "what_matters"
OWN_MODULES = tuple(path.stem for path in SCRIPTS.glob("*.py"))


def run(place: Path, script: str, *flags: object, callback: TrainerCallback | None = None) -> str:
    """Run a script with flags, maybe with one more callback in each Trainer, and return what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smolvlm_runs, "SCRIPTS", SCRIPTS)
        patch.setattr(smolvlm_runs, "OWN_MODULES", OWN_MODULES)
        return smolvlm_runs.run(place, script, *flags, callback=callback)
