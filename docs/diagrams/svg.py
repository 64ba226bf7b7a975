"""Draw boxes and arrows as SVG files that are legible on light and dark pages.

A picture is 800 px wide and brings its own background. Its smallest font has 13 px.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 800
LINE_HEIGHT = 18
PADDING = 10  # between the border of a box and its text, above and below
CORNER = 10  # radius of the bends of an arrow
HEAD = 9  # length of the head of an arrow

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a; text-anchor: middle }
  .name { font-size: 14px; font-weight: 600; fill: #1f2328 }
  .label { fill: #1f2328 }
  .start { text-anchor: start }
  .end { text-anchor: end }
  .page { fill: #ffffff }
  .box { stroke-width: 1.5 }
  .data { fill: #f6f8fa; stroke: #8c959f }
  .step { fill: #ffffff; stroke: #8c959f }
  .blue { fill: #ddf4ff; stroke: #0969da }
  .frozen { stroke-dasharray: 5 3 }
  .green { fill: #dafbe1; stroke: #1a7f37 }
  .orange { fill: #fff1e5; stroke: #bc4c00 }
  .arrow { stroke: #57606a; stroke-width: 1.5; fill: none }
  .optional { stroke-dasharray: 5 4 }
  .head { fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #b1bac4 }
    .name, .label { fill: #f0f6fc }
    .page { fill: #131416 }
    .data { fill: #21262d; stroke: #8b949e }
    .step { fill: #131416; stroke: #8b949e }
    .blue { fill: #0c2d6b; stroke: #58a6ff }
    .green { fill: #033a16; stroke: #3fb950 }
    .orange { fill: #4a1a03; stroke: #f0883e }
    .arrow { stroke: #9198a1 }
    .head { fill: #9198a1 }
  }
"""

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A labelled rectangle.

    Args:
        x: Horizontal position of its center.
        y: Vertical position of its center.
        lines: Its name, and further lines in a smaller font.
        kind: Classes of `STYLE` that give it its colors. Boxes of the kind `"step"` are fully rounded.
        width: Width.
        height: Height. Defaults to that of its lines.
    """

    x: float
    y: float
    lines: Sequence[str]
    kind: str = "green"
    width: float = 200
    height: float = 0

    def __post_init__(self) -> None:
        """Compute the height."""
        if not self.height:
            object.__setattr__(self, "height", 2 * PADDING + LINE_HEIGHT * len(self.lines))

    @property
    def left(self) -> float:
        """Horizontal position of the left border."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """Horizontal position of the right border."""
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        """Vertical position of the upper border."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """Vertical position of the lower border."""
        return self.y + self.height / 2

    def svg(self) -> str:
        """Return the rectangle and its lines."""
        radius = self.height / 2 if self.kind == "step" else 8
        rectangle = (
            f'<rect class="box {self.kind}" x="{self.left:g}" y="{self.top:g}" width="{self.width:g}" '
            f'height="{self.height:g}" rx="{radius:g}"/>'
        )
        first = self.y - LINE_HEIGHT * (len(self.lines) - 1) / 2 + 5
        texts = [
            text(self.x, first + LINE_HEIGHT * number, line, "note" if number else "name")
            for number, line in enumerate(self.lines)
        ]
        return "\n".join([rectangle, *texts])


@dataclass(frozen=True)
class Arrow:
    """A line of horizontal and vertical parts from one box to another.

    Args:
        start: Name of the box at its start.
        end: Name of the box at its end.
        label: Lines of text next to it: on one side of its first part if that is vertical, else one line above and one
            below.
        side: Side of a vertical part that the label is on, `"right"` or `"left"`.
        optional: Whether it is dashed.
        bend: Whether it leaves the first box vertically and enters the second one from the side. It always does where
            neither box lies above or next to the other.
        points: All of its points, for another route. The first and the last one may lie anywhere within their box.
    """

    start: str
    end: str
    label: Sequence[str] = ()
    side: str = "right"
    optional: bool = False
    bend: bool = False
    points: Sequence[Point] = ()

    def route(self, boxes: dict[str, Box]) -> list[Point]:
        """Return the points of the line, from border to border."""
        start, end = boxes[self.start], boxes[self.end]
        points = list(self.points) or _default_points(start, end, self.bend)
        points[0] = _border(start, points[0], points[1])
        points[-1] = _border(end, points[-1], points[-2])
        return points

    def svg(self, boxes: dict[str, Box]) -> str:
        """Return the line, its head and its label."""
        points = self.route(boxes)
        optional = " optional" if self.optional else ""
        line = f'<path class="arrow{optional}" d="{_path(_shortened(points))}"/>'
        return "\n".join([line, _head(points[-2], points[-1]), *self._texts(points)])

    def _texts(self, points: list[Point]) -> list[str]:
        (x1, y1), (x2, y2) = points[:2]
        if x1 == x2:
            first = (y1 + y2) / 2 - LINE_HEIGHT * (len(self.label) - 1) / 2 + 3
            shift, anchor = (10, "start") if self.side == "right" else (-10, "end")
            return [
                text(x1 + shift, first + LINE_HEIGHT * number, line, f"label {anchor}")
                for number, line in enumerate(self.label)
            ]
        x = (x1 + x2) / 2
        return [text(x, y1 + shift, line, "label") for shift, line in zip((-9, 20), self.label, strict=False)]


def text(x: float, y: float, line: str, kind: str) -> str:
    """Return a line of text. `kind` is a list of classes of `STYLE`."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(line)}</text>'


def _default_points(start: Box, end: Box, bend: bool) -> list[Point]:
    """Return a vertical or horizontal line if possible, else a line that leaves vertically and bends once."""
    left, right = max(start.left, end.left), min(start.right, end.right)
    if left < right and not bend:
        x = next((x for x in (end.x, start.x) if left <= x <= right), (left + right) / 2)
        return [(x, start.y), (x, end.y)]
    top, bottom = max(start.top, end.top), min(start.bottom, end.bottom)
    if top < bottom and not bend:
        y = next((y for y in (end.y, start.y) if top <= y <= bottom), (top + bottom) / 2)
        return [(start.x, y), (end.x, y)]
    return [(start.x, start.y), (start.x, end.y), (end.x, end.y)]


def _border(box: Box, inside: Point, outside: Point) -> Point:
    """Return where a horizontal or vertical line from within a box crosses its border."""
    if inside[0] == outside[0]:
        return inside[0], box.bottom if outside[1] > inside[1] else box.top
    return box.right if outside[0] > inside[0] else box.left, inside[1]


def _towards(start: Point, end: Point, length: float) -> Point:
    """Return the point of a horizontal or vertical line that lies `length` before its end."""
    dx, dy = start[0] - end[0], start[1] - end[1]
    return end[0] + length * ((dx > 0) - (dx < 0)), end[1] + length * ((dy > 0) - (dy < 0))


def _shortened(points: list[Point]) -> list[Point]:
    """Leave out the part of a line that its head covers."""
    return [*points[:-1], _towards(points[-2], points[-1], HEAD - 1)]


def _path(points: list[Point]) -> str:
    """Return the path of a line with rounded bends."""
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, bend, after in zip(points, points[1:], points[2:], strict=False):
        (x1, y1), (x2, y2) = _towards(before, bend, CORNER), _towards(after, bend, CORNER)
        parts.append(f"L{x1:g} {y1:g} Q{bend[0]:g} {bend[1]:g} {x2:g} {y2:g}")
    return " ".join([*parts, f"L{points[-1][0]:g} {points[-1][1]:g}"])


def _head(before: Point, tip: Point) -> str:
    """Return the head of an arrow."""
    x, y = _towards(before, tip, HEAD)
    across = (5, 0) if before[0] == tip[0] else (0, 5)
    corners = [tip, (x + across[0], y + across[1]), (x - across[0], y - across[1])]
    return '<path class="head" d="M' + " L".join(f"{a:g} {b:g}" for a, b in corners) + ' z"/>'


def row_centers(*num_lines: int, gap: float = 40, top: float = 24) -> list[float]:
    """Return the vertical positions of boxes below each other.

    Args:
        *num_lines: Number of lines of each box.
        gap: Distance between two boxes.
        top: Upper border of the first box.
    """
    centers = []
    for lines in num_lines:
        height = 2 * PADDING + LINE_HEIGHT * lines
        centers.append(top + height / 2)
        top += height + gap
    return centers


def legend(entries: Sequence[tuple[str, str]], y: float) -> str:
    """Return a centered row that explains the colors.

    Args:
        entries: Kind of each box, or `"arrow"`, and what it means.
        y: Vertical position.
    """
    widths = [36 + 6.8 * len(meaning) for _, meaning in entries]
    x = (WIDTH - sum(widths) - 24 * (len(entries) - 1)) / 2
    parts = []
    for (kind, meaning), width in zip(entries, widths, strict=True):
        if kind == "arrow":
            parts.append(f'<path class="arrow" d="M{x:g} {y:g} L{x + 20:g} {y:g}"/>')
            parts.append(_head((x, y), (x + 28, y)))
        else:
            radius = 8 if kind == "step" else 4
            parts.append(f'<rect class="box {kind}" x="{x:g}" y="{y - 8:g}" width="28" height="16" rx="{radius}"/>')
        parts.append(text(x + 36, y + 5, meaning, "start"))
        x += width + 24
    return "\n".join(parts)


def drawing(
    title: str,
    description: str,
    boxes: dict[str, Box],
    arrows: Sequence[Arrow],
    *,
    colors: Sequence[tuple[str, str]],
    symbols: str = "",
) -> str:
    """Return a whole SVG file.

    Args:
        title: Title for screen readers.
        description: What the picture shows, for screen readers.
        boxes: The boxes by name.
        arrows: The arrows.
        colors: Entries of the legend, of which only the colors in the picture are shown.
        symbols: A line that explains the symbols of the shapes.
    """
    kinds = {box.kind for box in boxes.values()} | {"arrow"}
    bottom = max(box.bottom for box in boxes.values())
    height = bottom + (80 if symbols else 56)
    body = [
        *(arrow.svg(boxes) for arrow in arrows),
        *(box.svg() for box in boxes.values()),
        legend([entry for entry in colors if entry[0] in kinds], bottom + 34),
        *([text(WIDTH / 2, bottom + 63, symbols, "note")] if symbols else []),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" aria-labelledby="title desc">\n<title id="title">{escape(title)}</title>\n'
        f'<desc id="desc">{escape(description)}</desc>\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{height:g}" rx="10"/>\n'
    )
    return head + "\n".join(body) + "\n</svg>\n"
