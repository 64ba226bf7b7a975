"""Draw boxes and arrows as SVG that is legible in light and dark mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LINE_HEIGHT = 17

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  .name { font-weight: 600 }
  .note { font-size: 12px; fill: #57606a }
  rect { stroke-width: 1.5 }
  .input { fill: #f6f8fa; stroke: #8c959f }
  .frozen { fill: #ddf4ff; stroke: #0969da; stroke-dasharray: 5 3 }
  .trained { fill: #dafbe1; stroke: #1a7f37 }
  .output { fill: #fff1e5; stroke: #bc4c00 }
  .arrow { stroke: #57606a; stroke-width: 1.5; fill: none }
  .head { fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9198a1 }
    .input { fill: #21262d; stroke: #8b949e }
    .frozen { fill: #0c2d6b; stroke: #58a6ff }
    .trained { fill: #033a16; stroke: #3fb950 }
    .output { fill: #5a1e02; stroke: #f0883e }
    .arrow { stroke: #9198a1 }
    .head { fill: #9198a1 }
  }
"""
LEGEND = {"input": "given", "frozen": "pretrained, frozen by default", "trained": "trained", "output": "returned"}


@dataclass(frozen=True)
class Box:
    """A labelled rectangle.

    Args:
        x: Horizontal position of its center, in pixels.
        y: Vertical position of its center, in pixels.
        lines: Its name, and further lines in a smaller font.
        kind: A key of `LEGEND`.
        width: Width, in pixels.
    """

    x: int
    y: int
    lines: Sequence[str]
    kind: str = "trained"
    width: int = 130

    @property
    def height(self) -> int:
        """Height, in pixels."""
        return 14 + LINE_HEIGHT * len(self.lines)

    def svg(self) -> str:
        """Return the rectangle and its lines."""
        left, top = self.x - self.width // 2, self.y - self.height // 2
        rectangle = f'<rect class="{self.kind}" x="{left}" y="{top}" width="{self.width}" height="{self.height}" rx="8"/>'
        texts = [
            f'<text class="{"name" if number == 0 else "note"}" x="{self.x}" '
            f'y="{top + 19 + LINE_HEIGHT * number}">{escape(line)}</text>'
            for number, line in enumerate(self.lines)
        ]
        return "\n".join([rectangle, *texts])

    def border(self, towards: "Box") -> tuple[float, float]:
        """Return the point of the border on the line to the center of another box."""
        dx, dy = towards.x - self.x, towards.y - self.y
        scales = [half / abs(delta) for half, delta in ((self.width / 2, dx), (self.height / 2, dy)) if delta]
        scale = min(scales)
        return self.x + scale * dx, self.y + scale * dy


def arrow(start: Box, end: Box) -> str:
    """Return a straight arrow between the borders of two boxes."""
    (x1, y1), (x2, y2) = start.border(end), end.border(start)
    return f'<line class="arrow" x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" marker-end="url(#head)"/>'


def legend(kinds: Sequence[str], y: int) -> str:
    """Return a row that explains the colors."""
    parts, x = [], 20
    for kind in kinds:
        parts.append(f'<rect class="{kind}" x="{x}" y="{y - 11}" width="22" height="14" rx="3"/>')
        parts.append(f'<text class="note" style="text-anchor: start" x="{x + 30}" y="{y}">{LEGEND[kind]}</text>')
        x += 60 + 7 * len(LEGEND[kind])
    return "\n".join(parts)


def drawing(
    title: str,
    description: str,
    boxes: dict[str, Box],
    arrows: Sequence[tuple[str, str]],
    *,
    height: int,
    width: int = 800,
    extra: str = "",
    explain_colors: bool = True,
) -> str:
    """Return a whole SVG file.

    Args:
        title: Title for screen readers.
        description: What the picture shows, for screen readers.
        boxes: The boxes by name.
        arrows: Names of the boxes that arrows start and end at.
        height: Height, in pixels, without the row that explains the colors.
        width: Width, in pixels.
        extra: Further SVG elements.
        explain_colors: Whether to add a row that explains the colors.
    """
    kinds = [kind for kind in LEGEND if any(box.kind == kind for box in boxes.values())]
    total = height + 30 if explain_colors else height
    body = [
        *(arrow(boxes[start], boxes[end]) for start, end in arrows),
        *(box.svg() for box in boxes.values()),
        extra,
        legend(kinds, height + 12) if explain_colors else "",
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        f'role="img">\n<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n<style>{STYLE}</style>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>\n'
    )
    return head + "\n".join(part for part in body if part) + "\n</svg>\n"
