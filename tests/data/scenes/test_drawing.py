import itertools
import random

import numpy as np
import pytest

from vlmkit.data.scenes.drawing import draw_scene
from vlmkit.data.scenes.graph import COLORS, RADII, SHAPES, SceneObject


def draw(shape="circle", color="black", size="large", x=50, y=50, image_size=64, seed=0):
    thing = SceneObject(shape=shape, color=color, size=size, x=x, y=y)
    return np.asarray(draw_scene([thing], image_size=image_size, rng=random.Random(seed)))


def dark(pixels):
    return pixels.max(axis=-1) < 130


@pytest.mark.parametrize(("color", "shape"), list(itertools.product(COLORS, SHAPES)))
def test_color_at_the_centre(color, shape):
    assert tuple(draw(shape, color, "small", x=25, y=75)[48, 16]) == COLORS[color]


@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.parametrize("size", RADII)
@pytest.mark.parametrize("shape", SHAPES)
def test_place_and_extent(shape, size, image_size):
    rows, columns = np.nonzero(dark(draw(shape, size=size, x=30, y=70, image_size=image_size)))
    radius = RADII[size] * image_size / 100
    assert columns.mean() + 0.5 == pytest.approx(0.3 * image_size, abs=1)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(0.7 * image_size, abs=0.12 * radius + 1)
    assert 2 * radius * 0.75 - 1 <= np.ptp(columns) + 1 <= 2 * radius + 1.5
    assert 2 * radius * 0.85 - 1 <= np.ptp(rows) + 1 <= 2 * radius + 1.5


@pytest.mark.parametrize("size", RADII)
def test_shapes_differ_clearly(size):
    masks = [dark(draw(shape, size=size)) for shape in SHAPES]
    for a, b in itertools.combinations(masks, 2):
        assert (a & b).sum() / (a | b).sum() < 0.9


def test_background_is_light_and_varied():
    corners = [tuple(draw(seed=seed)[0, 0]) for seed in range(5)]
    assert len(set(corners)) == 5
    assert draw()[:10].min() >= 225


def test_same_seed_same_pixels():
    np.testing.assert_array_equal(draw(seed=3), draw(seed=3))
