import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference

from vlmkit.metrics import confusion_matrix, frequent_confusions, merge_classes

NAMES = ["oak", "pine", "bus"]
SUPERCLASSES = {"vehicles": ["bus"], "trees": ["oak", "pine"]}
COUNTS = torch.tensor([[5, 2, 0], [3, 6, 1], [0, 2, 9]])


class TestConfusionMatrix:
    def test_rows_are_true_classes(self):
        matrix = confusion_matrix(torch.tensor([0, 0, 2]), torch.tensor([0, 1, 0]), num_classes=3)
        assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
        assert matrix.dtype == torch.int64

    def test_agrees_with_torchmetrics_and_takes_numpy(self):
        truth, predicted = torch.randint(0, 7, (2, 500))
        ours = confusion_matrix(truth.int().numpy(), predicted.numpy(), num_classes=7)
        assert torch.equal(ours, reference.multiclass_confusion_matrix(predicted, truth, num_classes=7))

    @pytest.mark.parametrize(
        ("truth", "predicted", "message"),
        [
            ([0, 3], [0, 1], r"`true_labels` must be from 0 to 2, but got 3 in row 1"),
            ([0, 1], [-1, 1], r"`predicted_labels` must be from 0 to 2, but got -1 in row 0"),
            ([0, 1], [0], r"`true_labels` and `predicted_labels` must have the same length, but got 2 and 1"),
            ([0.0, 1.0], [0, 1], r"`true_labels` must be a vector of at least one integer, but got \(2,\) of"),
            (np.zeros(0, dtype=int), [0], r"`true_labels` must be a vector of at least one integer, but got \(0,\)"),
        ],
    )
    def test_errors(self, truth, predicted, message):
        with pytest.raises(ValueError, match=message):
            confusion_matrix(np.asarray(truth), np.asarray(predicted), num_classes=3)


class TestMergeClasses:
    def test_by_hand_in_the_order_of_the_superclasses(self):
        assert merge_classes(COUNTS, class_names=NAMES, superclasses=SUPERCLASSES).tolist() == [[9, 2], [1, 16]]

    def test_is_the_confusion_of_merged_labels(self):
        truth, predicted = torch.randint(0, 6, (2, 300))
        names = [f"class {label}" for label in range(6)]
        superclasses = {f"superclass {rest}": [names[rest], names[rest + 3]] for rest in range(3)}
        merged = merge_classes(
            confusion_matrix(truth, predicted, num_classes=6).numpy(), class_names=names, superclasses=superclasses
        )
        assert torch.equal(merged, confusion_matrix(truth % 3, predicted % 3, num_classes=3))

    @pytest.mark.parametrize(
        ("confusion", "superclasses", "message"),
        [
            (COUNTS, {"trees": ["oak", "pin"]}, "'trees' has an unknown class 'pin'. Did you mean 'pine'"),
            (COUNTS, {"trees": ["oak", "pine"]}, r"Class 'bus' must be in exactly one superclass, but is in 0"),
            (COUNTS, {**SUPERCLASSES, "all": NAMES}, r"Class 'oak' must be in exactly one superclass, but is in 2"),
            (COUNTS[:2], SUPERCLASSES, r"`confusion` must have the shape \(3, 3\), one row and column for each of"),
            (COUNTS / 9, SUPERCLASSES, r"`confusion` must have the shape \(3, 3\), one row and column for each of"),
        ],
    )
    def test_errors(self, confusion, superclasses, message):
        with pytest.raises(ValueError, match=message):
            merge_classes(confusion, class_names=NAMES, superclasses=superclasses)


class TestFrequentConfusions:
    def test_most_frequent_first_without_right_answers_and_zeros(self):
        everything = [("pine", "oak", 3), ("oak", "pine", 2), ("bus", "pine", 2), ("pine", "bus", 1)]
        assert frequent_confusions(COUNTS, NAMES) == everything
        assert frequent_confusions(COUNTS.numpy(), NAMES, limit=2) == everything[:2]

    def test_no_errors(self):
        assert frequent_confusions(torch.eye(3, dtype=int), NAMES) == []

    def test_error(self):
        with pytest.raises(ValueError, match=r"`confusion` must have the shape \(2, 2\), one row and column for"):
            frequent_confusions(COUNTS, NAMES[:2])
