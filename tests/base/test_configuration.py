"""What all configurations share, seen on that of the dual encoder."""

import pytest

from vlmkit import DualEncoderConfig


def test_a_far_off_keyword_is_refused_with_all_fields():
    with pytest.raises(
        TypeError, match=r"DualEncoderConfig has no field 'banana'. Its fields are .*text_features.*loss"
    ):
        DualEncoderConfig(banana=1)


def test_keywords_of_transformers_itself_are_accepted(tmp_path):
    config = DualEncoderConfig(attn_implementation="eager", num_labels=3, name_or_path="me/tiny")
    assert config._attn_implementation == "eager"
    config.save_pretrained(tmp_path)
    loaded, unused = DualEncoderConfig.from_pretrained(tmp_path, temperature=0.5, banana=1, return_unused_kwargs=True)
    assert loaded.temperature == 0.5
    assert unused == {"banana": 1}
