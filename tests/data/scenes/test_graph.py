import itertools
import random

import pytest

from vlmkit.data.scenes.graph import COLORS, RADII, SHAPES, SceneObject, combinations, relations, sample_scene


def place(x: int, y: int) -> SceneObject:
    return SceneObject(shape="star", color="red", size="small", x=x, y=y)


def test_combinations_are_split_about_one_to_four():
    shown, held_out = combinations(held_out=False), combinations(held_out=True)
    assert sorted(shown + held_out) == sorted(itertools.product(COLORS, SHAPES))
    assert 0.15 < len(held_out) / len(shown + held_out) < 0.25


@pytest.mark.parametrize("held_out", [False, True])
def test_each_part_has_every_color_and_every_shape(held_out):
    colors, shapes = zip(*combinations(held_out), strict=True)
    assert set(colors) == set(COLORS)
    assert set(shapes) == set(SHAPES)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (20, 50, ["left"]),
        (80, 53, ["right"]),
        (48, 20, ["above"]),
        (50, 80, ["below"]),
        (20, 80, ["left", "below"]),
        (80, 20, ["right", "above"]),
        (52, 48, []),
    ],
)
def test_relations_to_the_middle(x, y, expected):
    assert relations(place(x, y), place(50, 50)) == expected


@pytest.mark.parametrize("held_out", [False, True])
def test_sampled_scenes(held_out):
    rng = random.Random(1)
    scenes = [sample_scene(rng, held_out) for _ in range(300)]
    assert {len(scene) for scene in scenes} == {2, 3}
    assert {thing["size"] for scene in scenes for thing in scene} == set(RADII)
    for scene in scenes:
        pairs = [(thing["color"], thing["shape"]) for thing in scene]
        assert len(set(pairs)) == len(pairs)
        assert any(pair in combinations(held_out=True) for pair in pairs) == held_out
        for thing in scene:
            radius = RADII[thing["size"]]
            assert radius < min(thing["x"], thing["y"])
            assert max(thing["x"], thing["y"]) < 100 - radius


def test_objects_never_overlap_and_no_relation_is_a_matter_of_taste():
    rng = random.Random(2)
    for _ in range(300):
        for first, second in itertools.combinations(sample_scene(rng, held_out=False), 2):
            distances = abs(first["x"] - second["x"]), abs(first["y"] - second["y"])
            assert max(distances) > RADII[first["size"]] + RADII[second["size"]]
            assert all(distance <= 5 or distance >= 24 for distance in distances)
            assert relations(first, second)


def test_every_combination_is_drawn():
    rng = random.Random(3)
    drawn = {(thing["color"], thing["shape"]) for _ in range(500) for thing in sample_scene(rng, held_out=False)}
    assert drawn == set(combinations(held_out=False))


def test_same_seed_same_scene():
    assert sample_scene(random.Random(4), held_out=True) == sample_scene(random.Random(4), held_out=True)
    assert sample_scene(random.Random(4), held_out=True) != sample_scene(random.Random(5), held_out=True)
