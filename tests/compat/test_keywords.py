import pytest
from tests import tiny

from vlmkit.compat.keywords import SERVER_KEYWORDS, config_keywords, forward_keywords


def test_keywords_of_every_configuration():
    known = config_keywords()
    assert {"attn_implementation", "torch_dtype", "tie_word_embeddings", "max_length", "num_beams"} <= known
    assert not {"hidden_size", "temprature", "banana"} & known


def test_what_transformers_saves_in_a_configuration_is_known(tmp_path):
    """Or a saved folder would not load again."""
    config = tiny.dual_encoder_config(num_labels=3, output_attentions=True, attn_implementation="eager")
    config.save_pretrained(tmp_path)
    loaded = type(config).from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_labels == 3


def test_keywords_of_every_forward_pass():
    known = forward_keywords()
    assert {"output_attentions", "output_hidden_states", "num_items_in_batch"} <= known
    assert not {"pixel_values", "labels", "banana"} & known


def test_callers_cannot_change_the_keywords():
    for keywords in (config_keywords, forward_keywords):
        keywords().add("banana")
        assert "banana" not in keywords()
    with pytest.raises(AttributeError):
        SERVER_KEYWORDS.add("banana")


def test_keywords_of_servers_are_not_those_of_transformers():
    """Once they are, the separate list is unnecessary."""
    assert SERVER_KEYWORDS
    assert not SERVER_KEYWORDS & forward_keywords()
