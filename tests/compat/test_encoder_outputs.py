import inspect

import torch
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlmkit.compat.encoder_outputs import encoder_outputs_argument, pop_encoder_outputs


def image_features() -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(pooler_output=torch.arange(4.0).view(2, 2))


def test_features_are_taken_out_of_the_keywords_as_a_copy():
    given = image_features()
    kwargs = {**encoder_outputs_argument(given), "max_new_tokens": 3}
    taken = pop_encoder_outputs(kwargs)
    assert kwargs == {"max_new_tokens": 3}
    assert type(taken) is BaseModelOutputWithPooling
    assert taken.pooler_output is given.pooler_output
    taken["pooler_output"] = taken.pooler_output.repeat_interleave(2, dim=0)  # as beam search does in place
    assert len(given.pooler_output) == 2


def test_without_features_there_is_nothing_to_take():
    kwargs = {"max_new_tokens": 3}
    assert pop_encoder_outputs(kwargs) is None
    assert pop_encoder_outputs({**kwargs, "mm_encoder_outputs": None}) is None
    assert kwargs == {"max_new_tokens": 3}


def test_the_argument_has_the_name_that_transformers_repeats_for_beam_search():
    [name] = encoder_outputs_argument(image_features())
    assert name in inspect.getsource(GenerationMixin)
