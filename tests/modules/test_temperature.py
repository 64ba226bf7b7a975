import math

import pytest
import torch

from vlmkit.modules.temperature import (
    MIN_LEARNED_TEMPERATURE,
    check_temperature,
    initial_logit_scale,
    inverse_temperature,
    new_logit_scale,
)


def parameter(temperature: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([initial_logit_scale(temperature)]))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("temperature", [0, -0.07, float("-inf")])
def test_a_temperature_that_is_not_positive_is_rejected(temperature, learned):
    with pytest.raises(ValueError, match=f"`temperature` must be positive, but got {temperature}"):
        check_temperature(temperature, learned)


def test_only_a_learned_temperature_has_a_lower_limit():
    check_temperature(0.005, learned=False)
    check_temperature(MIN_LEARNED_TEMPERATURE, learned=True)
    with pytest.raises(ValueError, match=r"`temperature` must be at least 0.01 if it is learned, but got 0.005"):
        check_temperature(0.005, learned=True)


def test_a_fixed_temperature_is_a_number_and_no_parameter():
    assert new_logit_scale(learned=False) is None
    assert inverse_temperature(None, 0.005) == 1 / 0.005


def test_a_learned_temperature_is_a_vector_of_one_and_starts_where_configured():
    assert new_logit_scale(learned=True).shape == (1,)  # FSDP2 shards no scalars
    scale = inverse_temperature(parameter(0.07), temperature=123.0)
    assert scale.shape == (1,)
    assert scale.item() == pytest.approx(1 / 0.07)


def test_the_gradient_is_that_of_the_exponential():
    logit_scale = parameter(0.07)
    inverse_temperature(logit_scale, 0.07).sum().backward()
    assert logit_scale.grad.item() == pytest.approx(1 / 0.07)


def test_the_limit_holds_forward_and_its_gradient_leads_back():
    logit_scale = torch.nn.Parameter(torch.tensor([5.0]))
    scale = inverse_temperature(logit_scale, 0.07)
    assert scale.item() == pytest.approx(100)
    scale.sum().backward()
    assert logit_scale.grad.item() == pytest.approx(math.exp(5), rel=1e-5)


def test_it_is_float32_in_a_half_precision_model():
    scale = inverse_temperature(torch.nn.Parameter(torch.tensor([2.65625], dtype=torch.bfloat16)), 0.07)
    assert scale.dtype == torch.float32
    assert scale.item() == pytest.approx(math.exp(2.65625))
