"""Confusion matrices."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlmkit.metrics.inputs import Array, validate_integers
from vlmkit.validation import did_you_mean


def confusion_matrix(true_labels: Array, predicted_labels: Array, *, num_classes: int) -> Tensor:
    """Count the predictions of each class for each true class.

    Args:
        true_labels: `(N,)` integers from 0 to C - 1.
        predicted_labels: `(N,)` integers from 0 to C - 1.
        num_classes: Number of classes C.

    Returns:
        `(C, C)` int64 on the CPU, with true classes as rows and predicted classes as columns.

    Raises:
        ValueError: If a label is out of range, or the vectors are empty or of different lengths.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), num_classes=2).tolist()
        [[1, 0], [1, 1]]
    """
    truth = validate_integers("true_labels", true_labels, bound=num_classes)
    predicted = validate_integers("predicted_labels", predicted_labels, bound=num_classes)
    if len(truth) != len(predicted):
        raise ValueError(
            "`true_labels` and `predicted_labels` must have the same length, but got "
            f"{len(truth)} and {len(predicted)}."
        )
    return (num_classes * truth + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)


def merge_classes(confusion: Array, *, class_names: Sequence[str], superclasses: Mapping[str, Sequence[str]]) -> Tensor:
    """Merge the classes of a confusion matrix into superclasses.

    Args:
        confusion: `(C, C)` integers, output of [`confusion_matrix`].
        class_names: C names, in the order of the matrix.
        superclasses: Classes of each of the S superclasses. Every class must belong to exactly one superclass.

    Returns:
        `(S, S)` int64, in the order of `superclasses`.

    Raises:
        ValueError: If the matrix has another size than the names, or a class is unknown, in no superclass or in several
            ones.

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
                raise ValueError(
                    f"Superclass {superclass!r} has an unknown class {member!r}.{did_you_mean(member, class_names)}"
                )
            membership[rows[member], column] += 1
    for name, times in zip(class_names, membership.sum(dim=1).tolist(), strict=True):
        if times != 1:
            raise ValueError(f"Class {name!r} must be in exactly one superclass, but is in {times}.")
    return membership.T @ counts @ membership


def frequent_confusions(confusion: Array, class_names: Sequence[str], *, limit: int = 10) -> list[tuple[str, str, int]]:
    """Return the pairs of classes that are confused most often.

    Args:
        confusion: `(C, C)` integers, output of [`confusion_matrix`].
        class_names: C names, in the order of the matrix.
        limit: Maximum number of pairs.

    Returns:
        True class, predicted class and count of each pair, in descending order of the counts. Pairs with a count of 0
        are omitted.

    Raises:
        ValueError: If the matrix has another size than the names.

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
    """Validate counts `(C, C)`, and return them as int64 on the CPU."""
    counts = torch.as_tensor(confusion).cpu()
    if counts.shape != (len(class_names), len(class_names)) or counts.is_floating_point():
        raise ValueError(
            f"`confusion` must have the shape ({len(class_names)}, {len(class_names)}), one row and column for each of "
            f"`class_names`, and contain integers, but got {tuple(counts.shape)} of {counts.dtype}."
        )
    return counts.long()
