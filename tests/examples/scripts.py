"""Runs of the example scripts in this process, because a new process takes seconds to import torch and transformers."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback, trainer

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.contextmanager
def importable(family: str):
    """Make the modules of a folder of examples importable. Several folders have modules of the same names."""
    names = [path.stem for path in (EXAMPLES / family).glob("*.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES / family)
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        yield patch
        for name in names:
            sys.modules.pop(name, None)


def run_script(script: str, *flags: object, cwd: Path, callback: TrainerCallback | None = None) -> str:
    """Run a script such as `dual_encoder/train.py`, with a callback in each Trainer, and return its output.

    Raises:
        SystemExit: If the script exits with an error. The message includes the output.
    """
    family, name = script.split("/")
    output = io.StringIO()
    with importable(family) as patch:
        patch.chdir(cwd)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cwd / "cache")
        patch.setattr(sys, "argv", [name, *map(str, flags)])
        if callback is not None:
            patch.setattr(trainer, "DEFAULT_CALLBACKS", [*trainer.DEFAULT_CALLBACKS, callback])
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        except SystemExit as error:
            raise SystemExit(f"{error}\n{output.getvalue()}") from error
    return output.getvalue()


def run_two_processes(script: str, *flags: object, cwd: Path) -> str:
    """Run a script by torchrun in two processes, and return its standard output."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(EXAMPLES / script), *map(str, flags), "--ddp_backend", "gloo"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout
