"""The captions of image pairs, one for each ordered pair of classes."""

import string
from collections.abc import Sequence

CAPTION_TEMPLATE = "the photo on the left is {a} and the photo on the right is {b}"


def check_captions(template: str, class_names: Sequence[str]) -> None:
    """Check that a template and class names make one caption for each pair of classes.

    Raises:
        ValueError: the template lacks a slot or has others; there are fewer than two classes; a name is empty, repeats
            or contains braces.
    """
    try:
        slots = sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    except ValueError as error:
        raise ValueError(f"caption_template {template!r} is no template: {error}") from error
    if slots != ["a", "b"]:
        raise ValueError(
            f"caption_template {template!r} has the slots {slots}; it needs {{a}} for the left image and {{b}} for the "
            "right one, once each"
        )
    if len(class_names) < 2:
        raise ValueError(f"class_names has {len(class_names)} names; give at least two")
    words = [_words(name) for name in class_names]
    for name, word in zip(class_names, words, strict=True):
        if not word or "{" in word or "}" in word:
            raise ValueError(f"class name {name!r} is empty or contains braces; give words")
        if words.count(word) > 1:
            raise ValueError(f"class name {name!r} repeats; two classes cannot share captions")


def pair_captions(template: str, class_names: Sequence[str]) -> list[str]:
    """The caption of every ordered pair of classes; that of (left, right) is at `num_classes * left + right`.

    Underscores in class names become spaces.

    Example:
        >>> pair_captions("{a} left, {b} right", ["cat", "oak_tree"])[1]
        'cat left, oak tree right'
    """
    words = [_words(name) for name in class_names]
    return [template.format(a=left, b=right) for left in words for right in words]


def _words(class_name: str) -> str:
    return class_name.replace("_", " ").strip()
