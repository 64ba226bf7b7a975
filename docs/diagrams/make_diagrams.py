"""Write the diagrams of the documentation.

    python docs/diagrams/make_diagrams.py

The SVG files in docs/images/diagrams are checked in. A test compares them with what this script draws.
"""

from pathlib import Path

import models
import packages

FOLDER = Path(__file__).parents[1] / "images/diagrams"


def drawings() -> dict[str, str]:
    """Return the content of each file by its name."""
    drawn = {"packages.svg": packages.draw()}
    return drawn | {f"{name}.svg": draw() for name, draw in models.DRAWINGS.items()}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in drawings().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
