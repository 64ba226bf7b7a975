import random
from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image

from vlmkit.data.scenes.detailed_scenes import (
    DETAILED_SCENE_WORDS,
    PATTERNS,
    PROPORTIONS,
    detailed_scene_texts,
    draw_detailed_scene,
    load_detailed_scenes,
)
from vlmkit.data.scenes.graph import COLORS, SHAPES

SPLITS = ["train", "validation", "test"]
TEXTS = ["captions", "questions", "answers", "kinds"]
BADGE = 18  # pixels, on images of 448
GRIDS = [(4, 4), (4, 2), (2, 4)]


@pytest.fixture(scope="module")
def scenes():
    return load_detailed_scenes(num_train=200, num_test=40, num_validation=30, long_side=224)


@pytest.fixture(scope="module")
def rows(scenes):
    return [row for table in scenes.values() for row in table]


@pytest.fixture(scope="module")
def texts():
    return list(detailed_scene_texts(2000))


def thing(**changes):
    values = {"shape": "square", "color": "red", "proportion": "even", "pattern": "rows", "column": 1, "row": 1}
    return {**values, **changes}


def draw(pattern="rows", grid=(4, 4), long_side=448, seed=0, **changes):
    return draw_detailed_scene(
        [thing(pattern=pattern, **changes)], grid=grid, long_side=long_side, rng=random.Random(seed)
    )


def badge_box(**options):
    """Left, top, right, bottom of the badge of `draw`: where two patterns give different pixels."""
    pictures = [np.asarray(draw(pattern, **options)).astype(int) for pattern in ("plain", "checks")]
    down, across = np.nonzero((pictures[0] != pictures[1]).any(-1))
    return across.min(), down.min(), across.max() + 1, down.max() + 1


def pairs_of(row):
    return sorted(zip(row["kinds"], row["questions"], row["answers"], strict=True))


# The table


def test_splits_and_columns(scenes):
    assert {split: len(table) for split, table in scenes.items()} == {"train": 200, "validation": 30, "test": 40}
    assert list(scenes) == SPLITS
    for split, table in scenes.items():
        assert table.split == split
        assert table.column_names == ["image_id", "image", *TEXTS, "scene"]
        assert table[7]["image_id"] == f"detailed-{split}-00007"
        assert table[7]["image"].mode == "RGB"
        assert table[7]["scene"][0].keys() == thing().keys()


def test_images_are_embedded_png(scenes):
    image = scenes["test"].cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert image["path"] is None
    assert image["bytes"].startswith(b"\x89PNG")


def test_images_have_three_aspect_ratios_about_equally_often(rows):
    sizes = Counter(row["image"].size for row in rows)
    assert sizes.keys() == {(224, 224), (224, 112), (112, 224)}
    assert min(sizes.values()) > len(rows) / 5


def test_two_to_four_objects_of_different_shape_and_color_in_different_cells(rows):
    for row in rows:
        things, (width, height) = row["scene"], row["image"].size
        assert 2 <= len(things) <= 4
        assert len({one["shape"] for one in things}) == len({one["color"] for one in things}) == len(things)
        cells = [(one["row"], one["column"]) for one in things]
        assert cells == sorted(set(cells))
        assert all(0 <= down < height // 56 and 0 <= across < width // 56 for down, across in cells)


def test_no_scene_and_no_id_occurs_twice(rows):
    assert len({row["image_id"] for row in rows}) == len(rows)
    assert len({str(row["scene"]) for row in rows}) == len(rows)


def test_a_scene_drawn_twice_is_dropped(monkeypatch):
    drawn = iter([[thing(column=column), thing(shape="star", row=0)] for column in (0, 0, 1, 0, 2)])
    monkeypatch.setattr("vlmkit.data.scenes.detailed_scenes._sample_scene", lambda grid, num_objects, rng: next(drawn))
    tables = load_detailed_scenes(num_train=1, num_test=1, num_validation=1, long_side=224)
    assert [tables[split][0]["scene"][0]["column"] for split in SPLITS] == [2, 1, 0]


def test_same_seed_gives_the_same_bytes():
    options = {"num_train": 5, "num_test": 4, "num_validation": 3, "long_side": 224, "seed": 5}
    first, second = (
        load_detailed_scenes(**options).cast_column("image", datasets.Image(decode=False)) for _ in range(2)
    )
    for split in SPLITS:
        assert list(first[split]) == list(second[split])


def test_every_process_draws_the_same_scene():
    row = load_detailed_scenes(num_train=1, num_test=1, num_validation=1)["test"][0]
    image = row.pop("image")
    assert image.size == (448, 448)
    assert [image.getpixel(place) for place in ((0, 0), (447, 447))] == [(249, 248, 249), (231, 231, 241)]
    assert pairs_of(row) == [
        ("color", "what color is the diamond ?", "blue"),
        ("color", "what color is the star ?", "green"),
        ("color", "what color is the triangle ?", "black"),
        ("count", "how many objects are there ?", "three"),
        ("pattern", "which pattern is on the diamond ?", "checks"),
        ("pattern", "which pattern is on the star ?", "columns"),
        ("pattern", "which pattern is on the triangle ?", "checks"),
        ("proportion", "is the diamond wide , tall or even ?", "wide"),
        ("proportion", "is the star wide , tall or even ?", "wide"),
        ("proportion", "is the triangle wide , tall or even ?", "even"),
    ]
    assert row["questions"][:2] == ["which pattern is on the star ?", "what color is the diamond ?"]
    assert row["image_id"] == "detailed-test-00000"
    assert row["captions"] == ["diamond blue wide checks . star green wide columns . triangle black even checks ."]
    assert row["scene"] == [
        thing(shape="diamond", color="blue", proportion="wide", pattern="checks", column=0, row=0),
        thing(shape="star", color="green", proportion="wide", pattern="columns", column=2, row=1),
        thing(shape="triangle", color="black", proportion="even", pattern="checks", column=0, row=3),
    ]


def test_another_seed_gives_other_scenes():
    first, second = (load_detailed_scenes(5, num_test=5, num_validation=5, long_side=224, seed=seed) for seed in (0, 1))
    for split in SPLITS:
        assert first[split]["scene"][:] != second[split]["scene"][:]


def test_scenes_and_texts_depend_neither_on_image_size_nor_on_the_number_of_images():
    small, large = (
        load_detailed_scenes(3, num_test=3, num_validation=3, long_side=224),
        load_detailed_scenes(6, num_test=5, num_validation=4, long_side=448),
    )
    assert max(large["train"][0]["image"].size) == 448
    for split in SPLITS:
        expected = list(small[split].remove_columns("image"))
        assert list(large[split].remove_columns("image").select(range(3))) == expected


# The texts


def test_the_caption_describes_the_scene(rows):
    for row in rows:
        phrases = [f"{one['shape']} {one['color']} {one['proportion']} {one['pattern']} ." for one in row["scene"]]
        assert row["captions"] == [" ".join(phrases)]


def test_every_object_is_asked_about_and_the_answers_are_true(rows):
    for row in rows:
        things = row["scene"]
        expected = [("count", "how many objects are there ?", {2: "two", 3: "three", 4: "four"}[len(things)])]
        for one in things:
            shape = one["shape"]
            expected += [
                ("color", f"what color is the {shape} ?", one["color"]),
                ("proportion", f"is the {shape} wide , tall or even ?", one["proportion"]),
                ("pattern", f"which pattern is on the {shape} ?", one["pattern"]),
            ]
        assert pairs_of(row) == sorted(expected)


def test_questions_are_in_random_order(rows):
    first = Counter(row["kinds"][0] for row in rows)
    assert first.keys() == {"color", "proportion", "pattern", "count"}
    assert max(first.values()) < len(rows) / 2


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("color", list(COLORS)),
        ("proportion", list(PROPORTIONS)),
        ("pattern", list(PATTERNS)),
        ("count", ["two", "three", "four"]),
    ],
)
def test_answers_of_a_kind_are_about_equally_frequent(texts, kind, answers):
    given = Counter(answer for row in texts for asked, _, answer in pairs_of(row) if asked == kind)
    assert given.keys() == set(answers)
    even = given.total() / len(answers)
    assert 0.9 * even < min(given.values()) <= max(given.values()) < 1.1 * even


def test_the_question_tells_nothing_about_the_pattern(texts):
    for shape in SHAPES:
        question = f"which pattern is on the {shape} ?"
        given = Counter(answer for row in texts for _, asked, answer in pairs_of(row) if asked == question)
        assert max(given.values()) < 0.32 * given.total()  # a quarter is even


def test_words_are_exactly_those_that_occur(texts):
    rows = [*texts, *detailed_scene_texts(20, num_objects=(1, 2))]
    said = [text for row in rows for column in ("captions", "questions", "answers") for text in row[column]]
    assert {word for text in said for word in text.split(" ")} == set(DETAILED_SCENE_WORDS)
    assert list(DETAILED_SCENE_WORDS) == sorted(set(DETAILED_SCENE_WORDS))


def test_texts_alone_are_like_those_of_the_scenes():
    table = detailed_scene_texts(50, seed=3)
    assert table.column_names == TEXTS
    assert len(table) == 50
    assert list(table) == list(detailed_scene_texts(60, seed=3).select(range(50)))
    assert list(table) != list(detailed_scene_texts(50, seed=4))
    for row in table:
        things = row["captions"][0].count(".")
        assert Counter(row["kinds"]) == {"color": things, "proportion": things, "pattern": things, "count": 1}


# The pictures


def test_lines_are_black_and_white_and_one_pixel_wide():
    left, top, right, bottom = badge_box()
    assert (right - left, bottom - top) == (BADGE, BADGE)
    down, across = np.indices((BADGE, BADGE))
    expected = {"rows": down % 2 * 255, "columns": across % 2 * 255, "checks": (down + across) % 2 * 255}
    expected["plain"] = np.full((BADGE, BADGE), 128)
    for pattern in PATTERNS:
        badge = np.asarray(draw(pattern).crop((left, top, right, bottom)))
        np.testing.assert_array_equal(badge, np.repeat(expected[pattern][..., None], 3, axis=-1))


@pytest.mark.parametrize("resample", [Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("seed", range(4))
def test_a_pattern_is_legible_at_full_size_and_gone_at_half(resample, seed):
    margin = 0 if resample == Image.Resampling.BOX else 2  # a wider kernel mixes the badge's border with the object
    left, top, right, bottom = badge_box(seed=seed)
    inside = slice(top // 2 + margin, bottom // 2 - margin), slice(left // 2 + margin, right // 2 - margin)
    full = [np.asarray(draw(pattern, seed=seed)).astype(int) for pattern in PATTERNS]
    half = [np.asarray(draw(pattern, seed=seed).resize((224, 224), resample)).astype(int) for pattern in PATTERNS]
    for one in range(4):
        for other in range(one):
            assert abs(full[one] - full[other]).max() >= 127
            assert abs(half[one] - half[other])[inside].max() <= 2
            assert abs(half[one] - half[other]).max() < 40  # the trace along the border


@pytest.mark.parametrize(("long_side", "side"), [(224, 8), (320, 12), (448, 18), (896, 36)])
def test_a_badge_grows_with_the_image_and_begins_at_an_even_pixel(long_side, side):
    for seed in range(5):
        left, top, right, bottom = badge_box(long_side=long_side, seed=seed)
        assert (right - left, bottom - top) == (side, side)
        assert (left % 2, top % 2) == (0, 0)


@pytest.mark.parametrize("proportion", PROPORTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_has_its_proportion_and_lies_in_its_cell_around_its_badge(shape, proportion):
    options = {"shape": shape, "proportion": proportion, "color": "black", "column": 2}
    picture = np.asarray(draw("plain", **options)).astype(int)
    down, across = np.nonzero((picture < 200).all(-1))  # the object and its badge
    assert 2 * 112 <= across.min() < across.max() < 3 * 112
    assert 1 * 112 <= down.min() < down.max() < 2 * 112
    width, height = np.ptp(across) + 1, np.ptp(down) + 1
    shrunk = {"diamond": 0.8, "triangle": 1 / 0.9}.get(shape, 1)  # width by height of the outline that is not stretched
    stretched = {"wide": 2, "tall": 0.5, "even": 1}[proportion]
    assert width / height == pytest.approx(shrunk * stretched, rel=0.05)
    left, top, right, bottom = badge_box(**options)
    assert across.min() < left < right <= across.max()
    assert down.min() < top < bottom <= down.max()


@pytest.mark.parametrize("grid", GRIDS)
def test_an_object_in_the_last_cell_is_not_cut_off(grid):
    picture = np.asarray(draw(grid=grid, color="black", column=grid[0] - 1, row=grid[1] - 1, proportion="wide"))
    assert picture.shape == (grid[1] * 112, grid[0] * 112, 3)
    border = np.concatenate([picture[-1], picture[:, -1]])
    assert border.min() >= 225


# Bad input


@pytest.mark.parametrize("name", ["num_train", "num_test", "num_validation"])
def test_empty_split(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but got 0"):
        load_detailed_scenes(**{name: 0})


@pytest.mark.parametrize("long_side", [216, 225, 452])
def test_side_too_small_or_not_a_multiple(long_side):
    with pytest.raises(ValueError, match=f"`long_side` must be a multiple of 8 and at least 224, but got {long_side}"):
        load_detailed_scenes(long_side=long_side)


def test_no_texts():
    with pytest.raises(ValueError, match="`num` must be at least 1, but got 0"):
        detailed_scene_texts(0)


def test_the_number_of_objects_is_one_of_those_given():
    scenes = load_detailed_scenes(num_train=8, num_test=1, num_validation=1, long_side=224, num_objects=(1,))["train"]
    assert {len(scene) for scene in scenes["scene"]} == {1}
    assert {kind for kinds in scenes["kinds"] for kind in kinds} == {"color", "proportion", "pattern"}


@pytest.mark.parametrize("num_objects", [(), (0,), (2, 5)])
def test_impossible_numbers_of_objects_are_refused(num_objects):
    with pytest.raises(ValueError, match=r"`num_objects` must contain .* only numbers from 1 to 4, but got"):
        detailed_scene_texts(3, num_objects=num_objects)


def test_more_scenes_than_there_are_is_refused(monkeypatch):
    only = [thing()]
    monkeypatch.setattr("vlmkit.data.scenes.detailed_scenes._sample_scene", lambda grid, num_objects, rng: only)
    with pytest.raises(ValueError, match="Only 1 different scenes were found for"):
        load_detailed_scenes(num_train=1, num_test=1, num_validation=1, long_side=224)
