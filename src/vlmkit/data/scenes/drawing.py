"""Pictures of scenes."""

import math
import random

from PIL import Image, ImageDraw

from vlmkit.data.scenes.graph import COLORS, RADII, Scene

Outline = list[tuple[float, float]]

_OVERSAMPLING = 4  # drawn so many times larger and scaled down, which smooths the edges


def draw_scene(scene: Scene, *, image_size: int, rng: random.Random) -> Image.Image:
    """Draw the objects on a light background that shades from corner to corner.

    Args:
        scene: the objects.
        image_size: side of the square picture in pixels.
        rng: chooses the background.

    Example:
        >>> star = {"shape": "star", "color": "blue", "size": "large", "x": 50, "y": 50}
        >>> picture = draw_scene([star], image_size=64, rng=random.Random(0))
        >>> picture.size, picture.getpixel((32, 32))
        ((64, 64), (40, 90, 220))
    """
    corners = Image.new("RGB", (2, 2))
    corners.putdata([tuple(rng.randint(225, 255) for _ in range(3)) for _ in range(4)])
    picture = corners.resize((image_size, image_size), Image.Resampling.BILINEAR)
    side = image_size * _OVERSAMPLING
    for thing in scene:
        radius = RADII[thing["size"]]
        outline = [
            ((thing["x"] + radius * x) * side / 100, (thing["y"] + radius * y) * side / 100)
            for x, y in OUTLINES[thing["shape"]]
        ]
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        picture.paste(COLORS[thing["color"]], mask=mask.reduce(_OVERSAMPLING))
    return picture


def _ring(*radii: float, corners: int) -> Outline:
    """Corners at equal angles, the first one on top, whose distances from the centre take turns."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    distances = [radii[corner % len(radii)] for corner in range(corners)]
    return [(d * math.sin(angle), -d * math.cos(angle)) for d, angle in zip(distances, angles, strict=True)]


# Each fills most of the square from -1 to 1, so that a large star is about as large as a large circle.
OUTLINES: dict[str, Outline] = {
    "circle": _ring(1.0, corners=64),
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "star": _ring(1.0, 0.42, corners=10),
    "cross": [
        *[(-0.34, -1.0), (0.34, -1.0), (0.34, -0.34), (1.0, -0.34), (1.0, 0.34), (0.34, 0.34)],
        *[(0.34, 1.0), (-0.34, 1.0), (-0.34, 0.34), (-1.0, 0.34), (-1.0, -0.34), (-0.34, -0.34)],
    ],
    "diamond": [(0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)],
}
