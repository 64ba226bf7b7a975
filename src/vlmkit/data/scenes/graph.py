"""Scenes of two or three objects, and the spatial relations between the objects."""

import itertools
import random
from collections.abc import Sequence
from typing import TypedDict

COLORS = {
    "red": (214, 30, 40),
    "orange": (255, 130, 10),
    "yellow": (250, 212, 0),
    "green": (34, 150, 60),
    "blue": (40, 90, 220),
    "purple": (130, 45, 175),
    "pink": (255, 130, 190),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
RADII = {"small": 10, "large": 18}  # in percent of the side of the image

# On each axis, two centers are level up to a distance of `_LEVEL` percent, and clearly apart from `_APART` percent.
# Distances in between do not occur, so all relations are unambiguous.
_LEVEL, _APART = 5, 24
_MARGIN = 3  # minimum distance between two objects, and between an object and the border of the image, in percent


class SceneObject(TypedDict):
    """Object of a scene, with its center in percent of the side of the image, from the left (x) and the top (y)."""

    shape: str
    color: str
    size: str
    x: int
    y: int


Scene = Sequence[SceneObject]


def combinations(held_out: bool) -> list[tuple[str, str]]:
    """Return the combinations of color and shape for training, or the held-out combinations.

    About a fifth of all combinations is held out. Every color and every shape occurs in both sets.

    Args:
        held_out: Return the held-out combinations instead of the training combinations.

    Returns:
        Pairs of a color and a shape.

    Example:
        >>> len(combinations(held_out=False)), len(combinations(held_out=True))
        (38, 10)
        >>> combinations(held_out=True)[0]
        ('red', 'circle')
    """
    numbered = itertools.product(enumerate(COLORS), enumerate(SHAPES))
    return [(color, shape) for (i, color), (j, shape) in numbered if ((i + j) % 5 == 0) == held_out]


def relations(first: SceneObject, second: SceneObject) -> list[str]:
    """Return the position of the first object relative to the second.

    Args:
        first: Object whose position is returned.
        second: Reference object.

    Returns:
        "left" or "right" if the objects are horizontally apart, and "above" or "below" if they are vertically apart.

    Example:
        >>> star = SceneObject(shape="star", color="red", size="small", x=20, y=30)
        >>> square = SceneObject(shape="square", color="blue", size="large", x=70, y=70)
        >>> relations(star, square)
        ['left', 'above']
    """
    right, down = first["x"] - second["x"], first["y"] - second["y"]
    distances = {"left": -right, "right": right, "above": -down, "below": down}
    return [relation for relation, distance in distances.items() if distance >= _APART]


def sample_scene(rng: random.Random, held_out: bool) -> list[SceneObject]:
    """Sample a random scene.

    The objects do not overlap, differ in color or shape, and are either level or clearly apart on each axis.

    Args:
        rng: Random number generator.
        held_out: Include at least one held-out combination of color and shape. If `False`, include none.

    Returns:
        Two or three objects, sorted by shape and color, so that equal scenes are equal lists.

    Example:
        >>> scene = sample_scene(random.Random(0), held_out=True)
        >>> any((thing["color"], thing["shape"]) in combinations(held_out=True) for thing in scene)
        True
    """
    count = rng.choice((2, 3))
    if held_out:
        first = rng.choice(combinations(held_out=True))
        others = [pair for pair in itertools.product(COLORS, SHAPES) if pair != first]
        pairs = [first, *rng.sample(others, count - 1)]
    else:
        pairs = rng.sample(combinations(held_out=False), count)
    sizes = rng.choices(list(RADII), k=count)
    centers = _sample_centers(rng, [RADII[size] for size in sizes])
    objects = [
        SceneObject(shape=shape, color=color, size=size, x=x, y=y)
        for (color, shape), size, (x, y) in zip(pairs, sizes, centers, strict=True)
    ]
    return sorted(objects, key=lambda thing: (thing["shape"], thing["color"]))


def _sample_centers(rng: random.Random, radii: list[int]) -> list[tuple[int, int]]:
    """Sample centers of objects with disjoint bounding boxes."""
    while True:
        centers = list(zip(_sample_axis(rng, radii), _sample_axis(rng, radii), strict=True))
        if all(
            max(abs(x1 - x2), abs(y1 - y2)) >= radius1 + radius2 + _MARGIN
            for ((x1, y1), radius1), ((x2, y2), radius2) in itertools.combinations(zip(centers, radii, strict=True), 2)
        ):
            return centers


def _sample_axis(rng: random.Random, radii: list[int]) -> list[int]:
    """Sample coordinates on one axis that are pairwise either level or clearly apart."""
    while True:
        values = [rng.randint(radius + _MARGIN, 100 - radius - _MARGIN) for radius in radii]
        distances = [abs(a - b) for a, b in itertools.combinations(values, 2)]
        if all(distance <= _LEVEL or distance >= _APART for distance in distances):
            return values
