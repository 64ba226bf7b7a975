"""Captions, questions and answers of scenes."""

import itertools
import random
from collections import Counter
from collections.abc import Collection

from vlmkit.data.scenes.graph import Scene, SceneObject, relations

_PREPOSITIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_POSSESSIVES = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_NUMBERS = {2: "two", 3: "three"}

QuestionAndAnswer = tuple[str, str]


def true_captions(scene: Scene) -> frozenset[str]:
    """Return all captions of the grammar that are true for a scene.

    A caption names two or three objects by color and shape, with or without their sizes. It lists the objects, states
    the position of one object relative to another, or compares the sizes of two objects. The grammar does not contain
    general captions that are true for most scenes.

    Args:
        scene: Two or three objects, such as a value of the column `scene` of [`load_scenes`].

    Returns:
        The set of captions.

    Example:
        >>> star = SceneObject(shape="star", color="orange", size="small", x=20, y=50)
        >>> square = SceneObject(shape="square", color="blue", size="large", x=70, y=52)
        >>> captions = true_captions([star, square])
        >>> "an orange star to the left of a large blue square" in captions
        True
        >>> "an orange star to the right of a blue square" in captions
        False
    """
    captions = set()
    for first, second in itertools.permutations(scene, 2):
        for a, b in itertools.product(_phrases(first), _phrases(second)):
            captions.add(f"{a} and {b}")
            for relation in relations(first, second):
                captions.add(f"{a} {_PREPOSITIONS[relation]} {b}")
                captions.add(f"{a} is {_PREPOSITIONS[relation]} {b}")
                captions.add(f"there is {a} {_PREPOSITIONS[relation]} {b}")
                captions.add(f"{b} with {a} {_POSSESSIVES[relation]}")
        if first["size"] != second["size"]:
            comparison = "larger" if first["size"] == "large" else "smaller"
            captions.add(f"{_phrases(first)[0]} that is {comparison} than {_phrases(second)[0]}")
    for things in itertools.permutations(scene, 3):
        for a, b, c in zip(*map(_phrases, things), strict=True):
            captions.add(f"{a}, {b} and {c}")
    return frozenset(captions)


def sample_captions(scene: Scene, rng: random.Random) -> list[str]:
    """Sample five different true captions of a scene.

    Args:
        scene: Objects of the scene.
        rng: Random number generator.

    Example:
        >>> star = SceneObject(shape="star", color="orange", size="small", x=20, y=50)
        >>> square = SceneObject(shape="square", color="blue", size="large", x=70, y=52)
        >>> captions = sample_captions([star, square], random.Random(0))
        >>> len(captions), true_captions([star, square]).issuperset(captions)
        (5, True)
    """
    # The order of a set of strings differs between processes, so the captions are sorted for reproducibility.
    return rng.sample(sorted(true_captions(scene)), 5)


def sample_questions(
    scene: Scene, *, askable: Collection[tuple[str, str]], rng: random.Random
) -> list[QuestionAndAnswer]:
    """Sample five questions of different kinds about a scene.

    Each question has exactly one correct answer, and the answers yes and no are equally likely. If a question is about
    the presence of an absent object, this object shares its color or its shape with a present object.

    Args:
        scene: Objects of the scene.
        askable: Pairs of color and shape that questions about absent objects may contain.
        rng: Random number generator.

    Returns:
        Pairs of a question and an answer of one or two words.

    Example:
        >>> star = SceneObject(shape="star", color="orange", size="small", x=20, y=50)
        >>> square = SceneObject(shape="square", color="blue", size="large", x=70, y=52)
        >>> askable = [("blue", "star"), ("orange", "square")]
        >>> pairs = sample_questions([star, square], askable=askable, rng=random.Random(3))
        >>> pairs[-1]
        ('what is to the right of the orange star?', 'blue square')
    """
    colors = Counter(thing["color"] for thing in scene)
    shapes = Counter(thing["shape"] for thing in scene)
    only_of_color = [thing for thing in scene if colors[thing["color"]] == 1]
    only_of_shape = [thing for thing in scene if shapes[thing["shape"]] == 1]
    kinds = [
        [("how many objects are there?", _NUMBERS[len(scene)])],
        _existence_questions(scene, askable, rng),
        [(f"what color is the {thing['shape']}?", thing["color"]) for thing in only_of_shape],
        [(f"what shape is the {thing['color']} object?", thing["shape"]) for thing in only_of_color],
        [(f"what size is the {_name(thing)}?", thing["size"]) for thing in scene],
        _relation_questions(scene),
        _neighbor_questions(scene),
    ]
    return [rng.choice(questions) for questions in rng.sample([kind for kind in kinds if kind], 5)]


def _name(thing: SceneObject) -> str:
    return f"{thing['color']} {thing['shape']}"


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _phrases(thing: SceneObject) -> tuple[str, str]:
    """Return the noun phrase of an object without and with its size."""
    return _with_article(_name(thing)), _with_article(f"{thing['size']} {_name(thing)}")


def _existence_questions(
    scene: Scene, askable: Collection[tuple[str, str]], rng: random.Random
) -> list[QuestionAndAnswer]:
    """Return questions about the presence of all present objects and of an equal number of absent objects."""
    present = {(thing["color"], thing["shape"]) for thing in scene}
    absent = [
        pair
        for pair in askable
        if pair not in present and any(pair[0] == color or pair[1] == shape for color, shape in present)
    ]
    pairs = [(_name(thing), "yes") for thing in scene]
    pairs += [(f"{color} {shape}", "no") for color, shape in rng.sample(absent, len(scene))]
    return [(f"is there {_with_article(name)}?", answer) for name, answer in pairs]


def _relation_questions(scene: Scene) -> list[QuestionAndAnswer]:
    """Return questions about each true relation between two objects and about the opposite relation."""
    questions = []
    for first, second in itertools.permutations(scene, 2):
        for relation in relations(first, second):
            for asked, answer in ((relation, "yes"), (_OPPOSITE[relation], "no")):
                questions.append((f"is the {_name(first)} {_PREPOSITIONS[asked]} the {_name(second)}?", answer))
    return questions


def _neighbor_questions(scene: Scene) -> list[QuestionAndAnswer]:
    """Return questions about the only object on one side of another object."""
    questions = []
    for thing, relation in itertools.product(scene, _PREPOSITIONS):
        neighbors = [other for other in scene if relation in relations(other, thing)]
        if len(neighbors) == 1:
            questions.append((f"what is {_PREPOSITIONS[relation]} the {_name(thing)}?", _name(neighbors[0])))
    return questions
