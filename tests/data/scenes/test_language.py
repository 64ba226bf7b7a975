import random
import re
from collections import Counter

import pytest

from vlmkit.data.scenes.graph import COLORS, RADII, SHAPES, SceneObject, combinations, sample_scene
from vlmkit.data.scenes.language import sample_captions, sample_questions, true_captions

ALL = combinations(held_out=False) + combinations(held_out=True)
NAME = rf"(?:({'|'.join(RADII)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
STAR = SceneObject(shape="star", color="orange", size="small", x=20, y=50)
SQUARE = SceneObject(shape="square", color="blue", size="large", x=70, y=52)
CROSS = SceneObject(shape="cross", color="blue", size="small", x=24, y=85)


def named(scene, text):
    """The objects that a text names, None for one that is not there; read off the words, not by the grammar."""
    found = re.findall(NAME, text)
    return [
        next((o for o in scene if (o["color"], o["shape"]) == name[1:] and name[0] in ("", o["size"])), None)
        for name in found
    ]


def holds(scene, text):
    """Whether a statement is true, judged by the distance of the centres alone."""
    things = named(scene, text)
    if not things:
        return {"two": 2, "three": 3}[re.search("two|three", text).group()] == len(scene)
    if None in things:
        return False
    if len(things) != 2:
        return True
    a, b = reversed(things) if " with " in text else things
    for words, distance in {
        "left": b["x"] - a["x"],
        "right": a["x"] - b["x"],
        "above": b["y"] - a["y"],
        "below": a["y"] - b["y"],
        "larger": RADII[a["size"]] - RADII[b["size"]],
        "smaller": RADII[b["size"]] - RADII[a["size"]],
    }.items():
        if words in text:
            return distance > 7
    return " and " in text


def scenes(count):
    rng = random.Random(7)
    return [sample_scene(rng, held_out=i % 2 == 0) for i in range(count)]


@pytest.mark.parametrize(
    "caption",
    [
        "an orange star to the left of a blue square",
        "a large blue square is to the right of an orange star",
        "there is a small orange star to the left of a large blue square",
        "a blue square with a small orange star to its left",
        "a blue cross with an orange star above it",
        "a blue cross below a small orange star",
        "a blue square that is larger than a blue cross",
        "an orange star that is smaller than a blue square",
        "a blue square and an orange star",
        "a small blue cross, a small orange star and a large blue square",
    ],
)
def test_true(caption):
    assert caption in true_captions([STAR, SQUARE, CROSS])


@pytest.mark.parametrize(
    "caption",
    [
        "an orange star to the right of a blue square",  # the wrong way round
        "an orange star above a blue square",  # level
        "a large orange star to the left of a blue square",  # another size
        "a blue star to the left of a blue square",  # the colour of the other
        "a blue square that is smaller than a blue cross",
        "an orange star that is larger than a blue cross",  # equal
        "a red circle and an orange star",
        "a orange star and a blue square",
    ],
)
def test_not_true(caption):
    assert caption not in true_captions([STAR, SQUARE, CROSS])


def test_order_of_the_objects_does_not_matter():
    assert true_captions([STAR, SQUARE, CROSS]) == true_captions([CROSS, STAR, SQUARE])


def test_every_true_caption_holds():
    for scene in scenes(30):
        false = [caption for caption in true_captions(scene) if not holds(scene, caption)]
        assert not false


def test_every_caption_that_holds_is_a_true_one():
    some = scenes(60)
    others = sorted(set().union(*map(true_captions, some)))
    for scene in some[:20]:
        assert {caption for caption in others if holds(scene, caption)} <= true_captions(scene)


def test_sampled_captions_are_five_true_ones_that_name_several_objects():
    rng = random.Random(0)
    for scene in scenes(100):
        captions = sample_captions(scene, rng)
        assert len(set(captions)) == 5
        assert true_captions(scene).issuperset(captions)
        assert all(len(named(scene, caption)) >= 2 for caption in captions)


def answer_of(scene, question):
    """The answer, found in the scene without the library's grammar; None if the question has not exactly one."""
    things = named(scene, question)
    if question.startswith("how many"):
        return {2: "two", 3: "three"}[len(scene)]
    if question.startswith("is there"):
        return "no" if None in things else "yes"
    if question.startswith("is the"):
        return "yes" if holds(scene, question) else "no"
    if question.startswith("what size"):
        return things[0]["size"]
    if question.startswith("what color"):
        found = [o["color"] for o in scene if f" {o['shape']}?" in question]
    elif question.startswith("what shape"):
        found = [o["shape"] for o in scene if f" {o['color']} " in question]
    else:
        other = question.removeprefix("what is ").removesuffix("?").replace("the ", "a ").replace("to a", "to the")
        found = [
            f"{o['color']} {o['shape']}"
            for o in scene
            if o is not things[0] and holds(scene, f"a {o['color']} {o['shape']} {other}")
        ]
    return found[0] if len(found) == 1 else None


def test_questions_have_their_one_right_answer():
    rng = random.Random(0)
    kinds = Counter()
    for scene in scenes(400):
        pairs = sample_questions(scene, askable=ALL, rng=rng)
        assert len(dict(pairs)) == 5
        for question, answer in pairs:
            assert answer_of(scene, question) == answer
            kinds[" ".join(question.split()[:2])] += 1
    assert kinds.keys() == {"how many", "is there", "is the", "what size", "what color", "what shape", "what is"}


@pytest.mark.parametrize("kind", ["is there", "is the "])
def test_yes_and_no_are_balanced(kind):
    rng = random.Random(0)
    pairs = [pair for scene in scenes(600) for pair in sample_questions(scene, askable=ALL, rng=rng)]
    answers = Counter(answer for question, answer in pairs if question.startswith(kind))
    assert answers.keys() == {"yes", "no"}
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_what_is_absent_is_askable_and_resembles_what_is_present():
    rng = random.Random(0)
    shown = combinations(held_out=False)
    asked = 0
    for _ in range(200):
        scene = sample_scene(rng, held_out=False)
        for question, answer in sample_questions(scene, askable=shown, rng=rng):
            if question.startswith("is there") and answer == "no":
                [(_, color, shape)] = re.findall(NAME, question)
                assert (color, shape) in shown
                assert any(color == thing["color"] or shape == thing["shape"] for thing in scene)
                asked += 1
    assert asked > 20
