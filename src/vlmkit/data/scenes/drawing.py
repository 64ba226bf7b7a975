"""Rendering of scenes to images."""

import math
import random

from PIL import Image, ImageDraw

from vlmkit.data.scenes.graph import COLORS, RADII, Scene

Outline = list[tuple[float, float]]

_OVERSAMPLING = 4  # outlines are drawn larger by this factor and scaled down for antialiasing


def draw_scene(scene: Scene, *, image_size: int, rng: random.Random) -> Image.Image:
    """Draw the objects of a scene on a light background with a random color gradient.

    Args:
        scene: Objects of the scene.
        image_size: Side of the square image in pixels.
        rng: Random number generator for the background.

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
    """Return corners at equal angles, starting at the top, whose distances from the center alternate between radii."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    distances = [radii[corner % len(radii)] for corner in range(corners)]
    return [(d * math.sin(angle), -d * math.cos(angle)) for d, angle in zip(distances, angles, strict=True)]


# Each outline fills most of the square from -1 to 1, so that all shapes of one size look about equally large.
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
