"""The diagrams of the documentation are up to date, and nothing in them overlaps."""

import importlib
import re
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties, findfont
from PIL import ImageFont

DOCS = Path(__file__).parent.parent / "docs"
FILES = sorted((DOCS / "images/diagrams").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
MIN_FONT_SIZE = 12
MARGIN = 6  # between a text and the border of its box


@pytest.fixture
def scripts(monkeypatch):
    """The modules of docs/diagrams by name."""
    names = ("svg", "models", "packages", "make_diagrams")
    monkeypatch.syspath_prepend(DOCS / "diagrams")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def test_checked_in_files_are_up_to_date(scripts):
    checked_in = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    outdated = {
        name for name, content in scripts["make_diagrams"].drawings().items() if checked_in.get(name) != content
    }
    assert outdated == set(), "Run `python docs/diagrams/make_diagrams.py`."
    assert checked_in.keys() == scripts["make_diagrams"].drawings().keys()


class Rectangle(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Rectangle") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def contains(self, other: "Rectangle", margin: float = 0) -> bool:
        return (
            self.left + margin <= other.left
            and other.right <= self.right - margin
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def font_sizes(style: str) -> dict[str, int]:
    """Font size of the classes `name` and `note`, which differ in it."""
    sizes = {"note": re.search(r"font: (\d+)px", style), "name": re.search(r"\.name \{ font-size: (\d+)px", style)}
    return {name: int(match[1]) for name, match in sizes.items()}


def text_rectangle(element: ElementTree.Element, sizes: dict[str, int]) -> Rectangle:
    """Where a text lies in DejaVu Sans, which is wider than the fonts of browsers."""
    classes = element.get("class").split()
    is_name = "name" in classes
    size = sizes["name" if is_name else "note"]
    properties = FontProperties(family="DejaVu Sans", weight="bold" if is_name else "normal")
    font = ImageFont.truetype(findfont(properties), size)
    width, x, y = font.getlength(element.text), float(element.get("x")), float(element.get("y"))
    left = x if "start" in classes else x - width if "end" in classes else x - width / 2
    return Rectangle(left, y - 0.75 * size, left + width, y + 0.2 * size)


def box_rectangle(element: ElementTree.Element) -> Rectangle:
    x, y, width, height = (float(element.get(name, 0)) for name in ("x", "y", "width", "height"))
    return Rectangle(x, y, x + width, y + height)


def segments(element: ElementTree.Element) -> list[Rectangle]:
    """The straight parts of a line, without their ends."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.get("d"))]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    found = []
    for (x1, y1), (x2, y2) in pairwise(points):
        left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        inner_x, inner_y = min(1, (right - left) / 2), min(1, (bottom - top) / 2)
        found.append(Rectangle(left + inner_x, top + inner_y, right - inner_x, bottom - inner_y))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_picture_is_legible(path):
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    style = root.find(f"{SVG}style").text
    sizes = font_sizes(style)
    page = Rectangle(0, 0, *(float(value) for value in root.get("viewBox").split()[2:]))
    boxes = [box_rectangle(rect) for rect in root.iter(f"{SVG}rect") if "page" not in rect.get("class")]
    texts = [(element.text, text_rectangle(element, sizes)) for element in root.iter(f"{SVG}text")]
    lines = [part for line in root.iter(f"{SVG}path") if "arrow" in line.get("class") for part in segments(line)]

    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    assert "prefers-color-scheme: dark" in style
    assert page.right == 800
    assert min(int(size) for size in re.findall(r"(\d+)px", style)) >= MIN_FONT_SIZE
    assert lines
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert not [pair for pair in combinations(texts, 2) if pair[0][1].overlaps(pair[1][1])]
    assert not [text for text, place in texts if not page.contains(place, margin=8)]
    assert not [
        text for text, place in texts for box in boxes if box.overlaps(place) and not box.contains(place, margin=MARGIN)
    ]
    obstacles = [*boxes, *(place for _, place in texts)]
    assert not [(line, place) for line in lines for place in obstacles if line.overlaps(place)]


def test_imports_that_others_imply_have_no_arrow(scripts):
    graph = {"models": {"base", "modules"}, "base": {"modules"}, "modules": set(), "data": set()}
    assert scripts["packages"].direct_imports(graph) == [("base", "modules"), ("models", "base")]


def test_every_package_needs_a_box(scripts, tmp_path, monkeypatch):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving/application.py").write_text("from vlmkit.validation import check_choice")
    monkeypatch.setattr(scripts["packages"], "SOURCE", tmp_path)
    with pytest.raises(ValueError, match=r"`BOXES` must have a box for each package, but lacks \['serving'\]"):
        scripts["packages"].draw()
