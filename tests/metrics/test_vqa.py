"""Closed-form accuracies, and the rules by which answers are compared."""

import numpy as np
import pytest

from vlmkit.metrics import normalize_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("  a\tred \n car ", "red car"),
        ("An apple and the pear", "apple and pear"),
        ("Theatre", "theatre"),
        ("The", ""),
        ("three", "3"),
        ("None", "0"),
        ("ten dogs, one cat", "10 dogs 1 cat"),
        ("someone", "someone"),
        ("isnt", "isn't"),
        ("Doesn't", "doesn't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve 'don't'", "couldn't've don't"),
        ("twas 5 oclock", "'twas 5 o'clock"),
        ("were its shells well", "were its shells well"),  # words of their own, and no contractions
        ("dog's", "dog's"),
        ("yes.", "yes"),
        ("U.S.", "us"),
        ("2.5", "2.5"),
        ("at 2.", "at 2"),
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),  # a comma between digits glues everything together
        ("t-shirt", "t shirt"),
        ("red - blue", "red blue"),
        ("t-shirt - red", "tshirt red"),  # so does a mark beside a space
        ("left/right", "left right"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("is it?!", "is it"),
        ('"stop"', "stop"),
        ("10:30 & more", "10:30 & more"),
        ("", ""),
        ("?", ""),
    ],
)  # fmt: skip
def test_normalized(answer, expected):
    assert normalize_answer(answer) == expected
    assert normalize_answer(expected) == expected


def test_one_answer_is_matched_exactly_after_normalization():
    scores = vqa_accuracy(
        ["Yes.", "no", "Two", "7", "a red car", "red"], ["yes", "yes", "2", "8", "Red car", "red car"]
    )
    assert scores == {
        "accuracy": 3 / 6,
        "accuracy/yes_no": 1 / 2,
        "accuracy/number": 1 / 2,
        "accuracy/other": 1 / 2,
    }


@pytest.mark.parametrize("people", [5, 9, 10, 12])
def test_several_answers_as_defined(people):
    for matches in range(people + 1):
        answers = ["The Dog"] * matches + ["cat"] * (people - matches)
        others = [matches - (answer == "The Dog") for answer in answers]
        expected = np.mean([min(other / 3, 1) for other in others])
        assert vqa_accuracy(["dog"], [answers])["accuracy"] == pytest.approx(expected)


def test_ten_answers():
    scores = [vqa_accuracy(["b"], [["b"] * matches + ["c"] * (10 - matches)])["accuracy"] for matches in range(6)]
    assert scores == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


@pytest.mark.parametrize("people", [1, 2, 3, 4])
def test_of_few_answers_it_is_the_share(people):
    for matches in range(people + 1):
        answers = ["b"] * matches + ["c"] * (people - matches)
        assert vqa_accuracy(["b"], [answers])["accuracy"] == matches / people


def test_agreement_of_all_is_one_whatever_their_number():
    assert all(vqa_accuracy(["b"], [["b"] * people])["accuracy"] == 1 for people in range(1, 12))


def test_rows_with_one_and_several_answers():
    assert vqa_accuracy(["b", "b"], ["b", ["b", "c"]])["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("answers", "answer_type"),
    [
        ("Yes", "yes_no"),
        (["no", "no", "maybe"], "yes_no"),
        (["2", "two", "red"], "number"),
        ("2.5", "number"),
        (".5", "number"),
        ("1,000", "number"),
        ("none", "number"),
        ("2 dogs", "other"),
        ("not yes", "other"),
        (["dog", "2", "2", "dog"], "other"),
        ("a", "other"),
    ],
)
def test_answer_types(answers, answer_type):
    assert vqa_accuracy(["?"], [answers]).keys() == {"accuracy", f"accuracy/{answer_type}"}


def test_arrays_and_tuples():
    scores = vqa_accuracy(np.array(["yes", "no"]), (np.array(["yes"]), ("yes", "no")))
    assert scores == {"accuracy": 0.75, "accuracy/yes_no": 0.75}
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"predictions": [], "answers": []}, ValueError, r"`predictions` and `answers` must have the same length of"),
        ({"predictions": ["yes"]}, ValueError, r"`predictions` and `answers` must have the same length of at least"),
        ({"answers": ["yes", []]}, ValueError, r"`answers\[1\]` must not be empty"),
        ({"predictions": "yes"}, TypeError, r"`predictions` must be a list, but got 'yes'"),
        ({"answers": "yes"}, TypeError, r"`answers` must be a list, but got 'yes'"),
        ({"answers": {"a": "yes"}}, TypeError, r"`answers` must be a list, but got \{'a': 'yes'\}"),
        ({"answers": ["yes", None]}, TypeError, r"`answers\[1\]` must be a list, but got None"),
        ({"answers": ["yes", 2]}, TypeError, r"`answers\[1\]` must be a list, but got 2"),
        ({"answers": ["yes", ["no", 2]]}, TypeError, r"`answers\[1\]\[1\]` must be a string, but got 2"),
        ({"predictions": ["yes", None]}, TypeError, r"`predictions\[1\]` must be a string, but got None"),
    ],
)  # fmt: skip
def test_errors_name_the_value_and_the_way_out(changes, error, message):
    with pytest.raises(error, match=message):
        vqa_accuracy(**{"predictions": ["yes", "no"], "answers": ["yes", "no"], **changes})
