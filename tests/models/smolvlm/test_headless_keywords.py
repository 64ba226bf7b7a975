"""Keyword arguments of the headless model: unknown ones are rejected, those of inference servers are not."""

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.large import chat_model

IDS = torch.tensor([[1, 5, 7]])


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("labels", ""),
        ("logits_to_keep", ""),
        ("banana", ""),
        ("pixel_value", r" Did you mean 'pixel_values'"),
        ("num_crop", r" Did you mean 'num_crops'"),
    ],
)
def test_unknown_arguments_and_arguments_of_the_head_are_rejected(argument, hint):
    message = rf"VlmkitSmolVLMModel\.forward has no argument '{argument}'\.{hint}\??$"
    with pytest.raises(TypeError, match=message):
        chat_model().model(input_ids=IDS, **{argument: torch.zeros(3)})


@pytest.mark.parametrize("argument", ["attention_instances", "forward_batch"])
def test_arguments_of_inference_servers_reach_the_layers(argument):
    model, received = chat_model().model, []
    model.language_model.layers[1].register_forward_pre_hook(
        lambda module, args, kwargs: received.append(kwargs.get(argument)), with_kwargs=True
    )
    expected = model(input_ids=IDS).last_hidden_state
    outputs = model(input_ids=IDS, **{argument: "of the server"})
    assert received == [None, "of the server"]
    torch.testing.assert_close(outputs.last_hidden_state, expected, rtol=0, atol=0)


def test_a_model_with_a_head_rejects_arguments_of_inference_servers():
    """Servers call the headless model only."""
    with pytest.raises(TypeError, match=r"SmolVLM\.forward has no argument 'attention_instances'"):
        chat_model()(input_ids=IDS, attention_instances=None)


def test_arguments_of_every_transformers_model_are_accepted():
    outputs = chat_model(attn_implementation="eager").model(
        **{name: value for name, value in tiny.smolvlm_inputs().items() if name != "labels"},
        output_attentions=True,
        output_hidden_states=True,
    )
    assert len(outputs.attentions) == 2
    assert len(outputs.hidden_states) == 3
