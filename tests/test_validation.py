import pytest

from vlmkit.validation import check_choice, did_you_mean


def test_the_nearest_name_is_hinted_at_if_it_is_near():
    assert did_you_mean("los", ["loss", "temperature"]) == " Did you mean 'loss'?"
    assert did_you_mean("banana", ["loss", "temperature"]) == ""
    assert did_you_mean("loss", []) == ""


def test_one_of_the_choices_passes():
    check_choice("pooling", "mean", ["mean", "cls"])
    check_choice("layers", 2, (choice for choice in (1, 2)))


def test_another_value_is_refused_with_the_choices():
    with pytest.raises(
        ValueError, match=r"^`pooling` must be one of 'mean', 'cls', but got 'meen'. Did you mean 'mean'\?$"
    ):
        check_choice("pooling", "meen", ["mean", "cls"])
    with pytest.raises(ValueError, match=r"^`layers` must be one of 1, 2, but got 3.$"):
        check_choice("layers", 3, (choice for choice in (1, 2)))


def test_choices_need_not_be_strings():
    check_choice("mix", None, [None, "mix_up"])
    with pytest.raises(
        ValueError, match=r"^`mix` must be one of None, 'mix_up', but got 'mixup'. Did you mean 'mix_up'\?$"
    ):
        check_choice("mix", "mixup", [None, "mix_up"])
