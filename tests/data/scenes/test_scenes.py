import itertools
import re

import datasets
import numpy as np
import pytest

from vlmkit.data.scenes.graph import COLORS, SHAPES, combinations
from vlmkit.data.scenes.language import true_captions
from vlmkit.data.scenes.scenes import caption_matches, load_scenes

SPLITS = ["train", "validation", "test"]
HELD_OUT = set(combinations(held_out=True))


@pytest.fixture(scope="module")
def scenes():
    return load_scenes(num_train=200, num_test=40, num_validation=30)


def mentioned(row):
    """The (color, shape) pairs that a row's texts name."""
    pattern = rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b"
    texts = row["captions"] + row["questions"] + row["answers"]
    return {pair for text in texts for pair in re.findall(pattern, text)}


def shown(row):
    return {(thing["color"], thing["shape"]) for thing in row["scene"]}


def test_splits_and_columns(scenes):
    assert {split: len(table) for split, table in scenes.items()} == {"train": 200, "validation": 30, "test": 40}
    assert list(scenes) == SPLITS
    for split, table in scenes.items():
        assert table.split == split
        row = table[7]
        assert row["image_id"] == f"scene-{split}-00007"
        assert (row["image"].size, row["image"].mode) == ((64, 64), "RGB")
        assert len(set(row["captions"])) == 5
        assert len(row["questions"]) == len(row["answers"]) == 5
        assert all(thing.keys() == {"shape", "color", "size", "x", "y"} for thing in row["scene"])
        assert type(row["scene"][0]["x"]) is int


def test_images_are_embedded_png(scenes):
    image = scenes["test"].cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert image["path"] is None
    assert image["bytes"].startswith(b"\x89PNG")


def test_captions_are_true(scenes):
    for table in scenes.values():
        for row in table.remove_columns("image"):
            assert true_captions(row["scene"]).issuperset(row["captions"])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_held_out_combinations_are_neither_shown_nor_mentioned_in(scenes, split):
    for row in scenes[split].remove_columns("image"):
        assert not HELD_OUT & (shown(row) | mentioned(row))


def test_test_scenes_show_held_out_combinations_and_texts_mention_them(scenes):
    rows = list(scenes["test"].remove_columns("image"))
    assert all(HELD_OUT & shown(row) for row in rows)
    assert any(HELD_OUT & mentioned(row) for row in rows)


def test_training_shows_every_color_and_every_shape(scenes):
    colors, shapes = zip(*set().union(*map(shown, scenes["train"].remove_columns("image"))), strict=True)
    assert set(colors) == set(COLORS)
    assert set(shapes) == set(SHAPES)


def test_no_scene_and_no_id_occurs_twice(scenes):
    rows = [row for table in scenes.values() for row in table.remove_columns("image")]
    assert len({row["image_id"] for row in rows}) == len(rows)
    contents = {frozenset(tuple(thing.values()) for thing in row["scene"]) for row in rows}
    assert len(contents) == len(rows)


def test_a_scene_drawn_twice_is_dropped(monkeypatch):
    things = [[{"shape": "star", "color": "red", "size": "small", "x": x, "y": 50}] for x in (20, 20, 60, 20, 40)]
    drawn = iter(things)
    monkeypatch.setattr("vlmkit.data.scenes.scenes.sample_scene", lambda rng, held_out: next(drawn))
    monkeypatch.setattr("vlmkit.data.scenes.scenes.sample_captions", lambda scene, rng: ["a red star"])
    monkeypatch.setattr("vlmkit.data.scenes.scenes.sample_questions", lambda scene, askable, rng: [("any?", "yes")])
    tables = load_scenes(num_train=1, num_test=1, num_validation=1)
    assert [tables[split][0]["scene"][0]["x"] for split in SPLITS] == [40, 60, 20]


def test_same_seed_gives_the_same_bytes():
    first, second = (
        load_scenes(9, num_test=5, image_size=32, seed=3, num_validation=5).cast_column(
            "image", datasets.Image(decode=False)
        )
        for _ in range(2)
    )
    for split in SPLITS:
        assert list(first[split]) == list(second[split])


def test_every_process_draws_the_same_scene():
    row = load_scenes(num_train=1, num_test=1, num_validation=1)["test"][0]
    image = row.pop("image")
    assert [image.getpixel(place) for place in ((0, 0), (63, 63))] == [(230, 244, 251), (245, 229, 240)]
    assert row == {
        "image_id": "scene-test-00000",
        "captions": [
            "a large pink diamond and a small purple circle",
            "a purple circle is to the right of a large pink diamond",
            "a purple circle is to the right of a pink diamond",
            "there is a purple circle to the right of a large pink diamond",
            "a large pink diamond to the left of a purple circle",
        ],
        "questions": [
            "what color is the diamond?",
            "is there a red diamond?",
            "is the purple circle to the left of the pink diamond?",
            "what is to the left of the purple circle?",
            "what shape is the pink object?",
        ],
        "answers": ["pink", "no", "no", "pink diamond", "diamond"],
        "scene": [
            {"shape": "circle", "color": "purple", "size": "small", "x": 71, "y": 51},
            {"shape": "diamond", "color": "pink", "size": "large", "x": 39, "y": 50},
        ],
    }


def test_another_seed_gives_other_scenes():
    first, second = (load_scenes(5, num_test=5, image_size=32, seed=seed, num_validation=5) for seed in (0, 1))
    for split in SPLITS:
        assert first[split]["scene"][:] != second[split]["scene"][:]


def test_scenes_and_texts_depend_neither_on_image_size_nor_on_the_number_of_images():
    small, large = (
        load_scenes(3, num_test=3, image_size=32, seed=0, num_validation=3),
        load_scenes(6, num_test=5, image_size=96, seed=0, num_validation=4),
    )
    assert large["train"][0]["image"].size == (96, 96)
    for split in SPLITS:
        rows = small[split].remove_columns("image")
        assert list(rows) == list(large[split].remove_columns("image").select(range(3)))


def test_caption_matches_is_the_truth_of_every_caption_for_every_image(scenes):
    table = scenes["test"].select(range(12))
    captions = list(itertools.chain.from_iterable(table["captions"]))
    expected = [[caption in true_captions(scene) for caption in captions] for scene in table["scene"]]
    matches = caption_matches(table)
    assert matches.dtype == bool
    np.testing.assert_array_equal(matches, expected)


def test_a_caption_matches_its_own_image_and_sometimes_others(scenes):
    matches = caption_matches(scenes["test"])
    assert matches.shape == (40, 200)
    assert matches[np.arange(200) // 5, np.arange(200)].all()
    assert 200 < matches.sum() < 40 * 200 / 4


def test_caption_matches_follows_the_order_of_the_rows(scenes):
    table = scenes["test"].select([5, 2, 9])
    matches = caption_matches(scenes["test"]).reshape(40, 40, 5)
    np.testing.assert_array_equal(caption_matches(table).reshape(3, 3, 5), matches[[5, 2, 9]][:, [5, 2, 9]])


def test_caption_matches_needs_scenes_and_captions(scenes):
    with pytest.raises(ValueError, match=r"but lacks captions and scene\. Pass one split of `load_scenes`"):
        caption_matches(scenes)
    with pytest.raises(ValueError, match=r"but lacks scene\."):
        caption_matches(scenes["test"].remove_columns("scene"))


@pytest.mark.parametrize("name", ["num_train", "num_test", "num_validation"])
def test_empty_split(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but got 0"):
        load_scenes(**{name: 0})


def test_image_too_small():
    with pytest.raises(ValueError, match=r"`image_size` must be at least 32 .* but got 31"):
        load_scenes(image_size=31)
