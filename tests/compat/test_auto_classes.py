import pytest
from tests import tiny
from transformers import AutoModel, AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM, ViTModel

from vlmkit.compat.auto_classes import model_class


@pytest.mark.parametrize(
    ("auto_class", "config", "expected"),
    [
        (AutoModel, tiny.vision_config(), ViTModel),
        (AutoModelForCausalLM, tiny.text_config(), GPT2LMHeadModel),
        (AutoModelForCausalLM, tiny.llama_config(), LlamaForCausalLM),
        (AutoModelForCausalLM, tiny.vision_config(), None),
    ],
)
def test_the_class_is_the_one_that_the_auto_class_builds(auto_class, config, expected):
    assert model_class(auto_class, config) is expected
    if expected is not None:
        assert type(auto_class.from_config(config)) is expected
