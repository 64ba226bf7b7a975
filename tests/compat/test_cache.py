import inspect
import warnings

import pytest
import torch
from tests import tiny
from transformers import AutoModelForCausalLM, DynamicCache

from vlmkit import QFormerCaptioner, SmolVLM
from vlmkit.compat.cache import CACHE_NAME, accepts_cache, cache_argument, cache_output


@accepts_cache
def forward(inputs, cache=None, use_cache=None):
    return inputs, cache, use_cache


def test_the_cache_has_the_name_of_the_installed_transformers():
    model = AutoModelForCausalLM.from_config(tiny.llama_config())
    assert CACHE_NAME in inspect.signature(model.forward).parameters
    assert CACHE_NAME in model(torch.tensor([[1, 2]]), use_cache=True)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_both_names_are_accepted(name):
    assert forward(1, **{name: 2}, use_cache=True) == (1, 2, True)


def test_the_old_name_is_deprecated_where_transformers_deprecates_it():
    model = AutoModelForCausalLM.from_config(tiny.llama_config())
    calls = {"ours": forward, "theirs": model.forward}
    messages = {}
    for name, call in calls.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(torch.tensor([[1, 2]]), past_key_values=DynamicCache())
        messages[name] = [str(warning.message) for warning in caught]
    is_deprecated = {
        name: any("`past_key_values` is deprecated" in message for message in messages[name]) for name in calls
    }
    assert is_deprecated["ours"] == is_deprecated["theirs"] == (CACHE_NAME == "cache")


def test_positions_are_kept():
    assert forward(1, 2) == (1, 2, None)
    assert forward(1) == (1, None, None)


def test_the_signature_shows_the_installed_name():
    assert list(inspect.signature(forward).parameters) == ["inputs", CACHE_NAME, "use_cache"]
    for model_class in (SmolVLM, QFormerCaptioner):
        assert CACHE_NAME in inspect.signature(model_class.forward).parameters


def test_no_cache_is_no_argument():
    assert cache_argument(None) == {}
    assert list(cache_argument(object())) == [CACHE_NAME]


def test_outputs_without_a_cache():
    assert cache_output({}) == {CACHE_NAME: None}
