"""Fetch the tests of the installed transformers, which only its source distribution holds.

    python tests/fetch_transformers_tests.py

They are unpacked to `.cache/transformers-<version>/tests`; a folder that is there already is left alone.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    name = f"transformers-{version('transformers')}"
    cache = Path(__file__).parent.parent / ".cache"
    if (cache / name).exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*download, "--dest", folder, name.replace("-", "==")], check=True)
        with tarfile.open(Path(folder, f"{name}.tar.gz")) as archive:
            members = [member for member in archive.getmembers() if member.name.startswith(f"{name}/tests/")]
            archive.extractall(Path(folder, "unpacked"), members, filter="data")
        cache.mkdir(exist_ok=True)
        Path(folder, "unpacked", name).rename(cache / name)


if __name__ == "__main__":
    main()
