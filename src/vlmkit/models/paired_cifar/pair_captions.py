"""Captions of pairs of images, one for each ordered pair of classes."""

import string
from collections.abc import Sequence

CAPTION_TEMPLATE = "the photo on the left is {a} and the photo on the right is {b}"


def check_captions(template: str, class_names: Sequence[str]) -> None:
    """Check that a template and class names give a different caption for each pair of classes.

    Args:
        template: Template with the placeholders `{a}` and `{b}`, see [`pair_captions`].
        class_names: Names of the classes.

    Raises:
        ValueError: If the template does not have exactly the placeholders `{a}` and `{b}`, there are fewer than two
            classes, or a class name is empty, contains braces or appears more than once.
    """
    try:
        placeholders = sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    except ValueError as error:
        raise ValueError(f"`caption_template` must be a valid format string, but got {template!r}: {error}.") from error
    if placeholders != ["a", "b"]:
        raise ValueError(
            "`caption_template` must have the placeholders {a} for the left image and {b} for the right image, once "
            f"each, but got {template!r} with the placeholders {placeholders}."
        )
    if len(class_names) < 2:
        raise ValueError(f"`class_names` must contain at least 2 names, but got {len(class_names)}.")
    words = [_words(name) for name in class_names]
    for name, word in zip(class_names, words, strict=True):
        if not word or "{" in word or "}" in word:
            raise ValueError(f"Names in `class_names` must not be empty or contain braces, but got {name!r}.")
        if words.count(word) > 1:
            raise ValueError(
                f"Names in `class_names` must be unique, but {name!r} appears more than once. Underscores count as "
                "spaces."
            )


def pair_captions(template: str, class_names: Sequence[str]) -> list[str]:
    """Return the captions of all ordered pairs of classes.

    Args:
        template: Template with the placeholders `{a}` for the left class and `{b}` for the right class.
        class_names: Names of the C classes. Underscores are replaced with spaces.

    Returns:
        C² captions. The caption of the classes (left, right) has the index `C * left + right`.

    Example:
        >>> pair_captions("{a} left, {b} right", ["cat", "oak_tree"])[1]
        'cat left, oak tree right'
    """
    words = [_words(name) for name in class_names]
    return [template.format(a=left, b=right) for left in words for right in words]


def _words(class_name: str) -> str:
    """Return a class name as it appears in captions."""
    return class_name.replace("_", " ").strip()
