"""Draw the diagrams of the documentation.

    python docs/diagrams/make_diagrams.py

The files in docs/images/diagrams are checked in, and a test compares them with the output of this script.
"""

from pathlib import Path

import packages

import models

FOLDER = Path(__file__).parents[1] / "images/diagrams"


def drawings() -> dict[str, str]:
    """Return the content of each file by its name."""
    return {"packages.svg": packages.draw(), **{f"{name}.svg": draw() for name, draw in models.DRAWINGS.items()}}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in drawings().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
