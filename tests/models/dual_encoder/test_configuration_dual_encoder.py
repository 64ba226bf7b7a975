import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tests import tiny
from transformers import GPT2Config, ViTConfig

from vlmkit import DualEncoderConfig


def test_defaults_are_the_papers():
    config = DualEncoderConfig()
    assert isinstance(config.vision_config, ViTConfig)
    assert isinstance(config.text_config, GPT2Config)
    assert (config.text_features, config.projection, config.loss) == ("token_embeddings", "vision_to_text", "info_nce")
    assert config.freeze_vision
    assert config.freeze_text
    assert config.temperature == 0.07
    assert not config.learn_temperature


def test_the_shared_space_has_512_dimensions_unless_given():
    assert DualEncoderConfig(projection="shared").projection_dim == 512
    assert DualEncoderConfig(projection="shared", projection_dim=64).projection_dim == 64
    assert DualEncoderConfig().projection_dim is None


def test_parts_may_be_dictionaries():
    config = DualEncoderConfig(vision_config=tiny.vision_config().to_dict())
    assert config.vision_config.hidden_size == 16


@pytest.mark.parametrize("temperature", [0, -0.07, 0.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"`temperature` must be positive, but got {temperature}"):
        DualEncoderConfig(temperature=temperature)


def test_a_width_without_a_shared_space_is_refused():
    with pytest.raises(ValueError, match=r"`projection_dim` must be `None` .* but got 64\..*'shared'"):
        DualEncoderConfig(projection_dim=64)


@pytest.mark.parametrize("width", [0, -3])
def test_a_shared_space_without_dimensions_is_refused(width):
    with pytest.raises(ValueError, match=f"`projection_dim` must be at least 1, but got {width}"):
        DualEncoderConfig(projection="shared", projection_dim=width)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0.07"),
        ("projection_dim", "64"),
        ("freeze_vision", "yes"),
        ("loss", "triplet"),
        ("text_features", "tokens"),
        ("vision_pooling", "max"),
        ("text_pooling", "pooler"),
        ("projection", "both"),
        ("vision_config", 7),
    ],
)
def test_a_wrong_type_or_choice_is_refused(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'.*\n.*{value}"):
        DualEncoderConfig(**{field: value})
