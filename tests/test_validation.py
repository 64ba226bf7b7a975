import pytest

from vlmkit.validation import nearest, one_of


def test_the_nearest_name_is_hinted_at_if_it_is_near():
    assert nearest("los", ["loss", "temperature"]) == ", did you mean 'loss'?"
    assert nearest("banana", ["loss", "temperature"]) == ""
    assert nearest("loss", []) == ""


def test_one_of_the_choices_passes():
    one_of("pooling", "mean", ["mean", "cls"])
    one_of("layers", 2, (choice for choice in (1, 2)))


def test_another_value_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"^pooling is 'meen'; choose one of 'mean', 'cls', did you mean 'mean'\?$"):
        one_of("pooling", "meen", ["mean", "cls"])
    with pytest.raises(ValueError, match=r"^layers is 3; choose one of 1, 2$"):
        one_of("layers", 3, (choice for choice in (1, 2)))


def test_choices_need_not_be_strings():
    one_of("mix", None, [None, "mix_up"])
    with pytest.raises(ValueError, match=r"^mix is 'mixup'; choose one of None, 'mix_up', did you mean 'mix_up'\?$"):
        one_of("mix", "mixup", [None, "mix_up"])
