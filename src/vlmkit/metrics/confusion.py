"""Which classes are taken for which."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlmkit.metrics.inputs import Array, validate_integers
from vlmkit.validation import did_you_mean


def confusion_matrix(true_labels: Array, predicted_labels: Array, *, num_classes: int) -> Tensor:
    """How often each class was taken for each class.

    Args:
        true_labels: `(N,)` integers from 0 to C - 1.
        predicted_labels: `(N,)` integers from 0 to C - 1.
        num_classes: C.

    Returns:
        `(C, C)` int64 on the CPU; rows are true classes, columns predicted ones.

    Raises:
        ValueError: a label is out of range, there are none, or not as many of both.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), num_classes=2).tolist()
        [[1, 0], [1, 1]]
    """
    truth = validate_integers("true_labels", true_labels, bound=num_classes)
    predicted = validate_integers("predicted_labels", predicted_labels, bound=num_classes)
    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} true_labels and {len(predicted)} predicted_labels must be as many")
    return (num_classes * truth + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)


def merge_classes(confusion: Array, *, class_names: Sequence[str], superclasses: Mapping[str, Sequence[str]]) -> Tensor:
    """Confusion matrix of superclasses, from that of their classes.

    Args:
        confusion: `(C, C)` integers, as from [`confusion_matrix`].
        class_names: C names, in the order of the matrix.
        superclasses: the classes of each of S superclasses; every class belongs to exactly one.

    Returns:
        `(S, S)` int64, in the order of `superclasses`.

    Raises:
        ValueError: the matrix does not fit the names, or a class is unknown, in no superclass or in several.

    Example:
        >>> confusion = torch.tensor([[5, 2, 0], [1, 6, 0], [1, 0, 9]])
        >>> superclasses = {"trees": ["oak", "pine"], "cars": ["bus"]}
        >>> merge_classes(confusion, class_names=["oak", "pine", "bus"], superclasses=superclasses).tolist()
        [[14, 0], [1, 9]]
    """
    counts = _validate_confusion(confusion, class_names)
    rows = {name: row for row, name in enumerate(class_names)}
    membership = torch.zeros(len(class_names), len(superclasses), dtype=torch.int64)
    for column, (superclass, members) in enumerate(superclasses.items()):
        for member in members:
            if member not in rows:
                raise ValueError(f"{superclass!r} has an unknown class {member!r}.{did_you_mean(member, class_names)}")
            membership[rows[member], column] += 1
    for name, times in zip(class_names, membership.sum(dim=1).tolist(), strict=True):
        if times != 1:
            raise ValueError(f"class {name!r} stands {times} times in superclasses; every class needs exactly one")
    return membership.T @ counts @ membership


def frequent_confusions(confusion: Array, class_names: Sequence[str], *, limit: int = 10) -> list[tuple[str, str, int]]:
    """The pairs of classes that are most often confused.

    Args:
        confusion: `(C, C)` integers, as from [`confusion_matrix`].
        class_names: C names, in the order of the matrix.
        limit: of how many pairs at most.

    Returns:
        True class, predicted class and how often, the most frequent first; pairs never confused are left out.

    Raises:
        ValueError: the matrix does not fit the names.

    Example:
        >>> frequent_confusions(torch.tensor([[5, 2], [3, 6]]), ["oak", "pine"])
        [('pine', 'oak', 3), ('oak', 'pine', 2)]
    """
    counts = _validate_confusion(confusion, class_names)
    errors = [
        (class_names[row], class_names[column], int(counts[row, column]))
        for row, column in counts.nonzero().tolist()
        if row != column
    ]
    return sorted(errors, key=lambda error: -error[2])[:limit]


def _validate_confusion(confusion: Array, class_names: Sequence[str]) -> Tensor:
    """Counts `(C, C)` as int64 on the CPU."""
    counts = torch.as_tensor(confusion).cpu()
    if counts.shape != (len(class_names), len(class_names)) or counts.is_floating_point():
        raise ValueError(
            f"confusion {tuple(counts.shape)} of {counts.dtype} must be counts, with a row and a column for each of "
            f"{len(class_names)} class_names"
        )
    return counts.long()
