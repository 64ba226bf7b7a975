"""Fresh interpreters: for what must hold before vlmkit is imported, or without it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_python(*arguments: str | Path, **environment: str) -> str:
    """Run `python <arguments>` in the root of the project and return what it prints; its failure fails the test."""
    run = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout
