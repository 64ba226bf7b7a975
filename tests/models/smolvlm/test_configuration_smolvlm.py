import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tests import tiny
from tests.models.smolvlm.large import TEXT
from transformers import BertConfig, DistilBertConfig, GPT2Config, LlamaConfig, ViTConfig

from vlmkit import SmolVLM, VlmkitSmolVLMConfig
from vlmkit.compat.cache import CACHE_NAME
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig

SMOLLM_135M = 134_515_008  # parameters, by its model card 135 million


def count(module: torch.nn.Module, trainable: bool = False) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)


@pytest.fixture(scope="module")
def original() -> SmolVLM:
    """The default model, without memory."""
    with torch.device("meta"):
        return SmolVLM(VlmkitSmolVLMConfig())


def test_defaults_are_the_originals():
    config = VlmkitSmolVLMConfig()
    vision, qformer, text = config.vision_config, config.qformer_config, config.text_config
    assert isinstance(vision, ViTConfig)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size) == (768, 12, 16, 224)
    assert isinstance(qformer, DistilBertConfig)
    assert (qformer.dim, qformer.n_layers, qformer.n_heads) == (768, 6, 12)
    assert isinstance(text, LlamaConfig)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (576, 30, 9)
    assert (text.vocab_size, text.eos_token_id, text.pad_token_id) == (49153, 2, 2)
    assert config.image_token_id == 49152
    assert (config.num_query_tokens, config.cross_attention_frequency) == (32, 2)
    assert config.num_cross_attention_heads is None
    assert config.freeze_vision
    assert config.tie_word_embeddings
    assert config.keys_to_ignore_at_inference == [CACHE_NAME, "image_hidden_states"]


def test_parameters_are_those_of_smollm_and_one_more_row(original):
    width, mlp = 576, (768 * 576 + 576) + (576 * 576 + 576)
    vision_tower, language_model, connector = (
        original.model.get_submodule(name) for name in ("vision_tower", "language_model", "connector")
    )
    assert count(language_model) == SMOLLM_135M + width
    assert count(connector.fc1) + count(connector.fc2) == mlp
    assert isinstance(connector.vision_projection, torch.nn.Identity)
    assert count(vision_tower, trainable=True) == 0
    assert count(original, trainable=True) == count(language_model) + count(connector)


def test_parts_may_be_dictionaries():
    config = VlmkitSmolVLMConfig(
        vision_config={"model_type": "vlmkit_precomputed_vision", "hidden_size": 24},
        qformer_config=BertConfig(hidden_size=24).to_dict(),
        text_config={"model_type": "gpt2", "n_embd": 16},
        image_token_id=50256,
    )
    assert isinstance(config.vision_config, PrecomputedVisionConfig)
    assert isinstance(config.qformer_config, BertConfig)
    assert isinstance(config.text_config, GPT2Config)
    assert (config.vision_config.hidden_size, config.qformer_config.hidden_size) == (24, 24)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_tied_where_the_language_models_is(tied, tmp_path):
    text = tiny.llama_config(tie_word_embeddings=tied)
    SmolVLM(tiny.smolvlm_config(text_config=text)).save_pretrained(tmp_path)
    model = SmolVLM.from_pretrained(tmp_path)
    assert model.config.tie_word_embeddings is tied
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied


@pytest.mark.parametrize("make", [tiny.smolvlm_config, tiny.qformer_captioner_config])
@pytest.mark.parametrize("tied", [True, False])
def test_whether_the_head_is_tied_can_be_set_for_the_whole_model(make, tied, tmp_path):
    config = make(text_config=tiny.llama_config(tie_word_embeddings=not tied), tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    loaded = type(config).from_pretrained(tmp_path)
    for made in (config, loaded):
        assert made.tie_word_embeddings is made.text_config.tie_word_embeddings is tied


@pytest.mark.parametrize("field", ["num_query_tokens", "num_cross_attention_heads", "cross_attention_frequency"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_1_is_rejected(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be at least 1, but got {value}"):
        tiny.smolvlm_config(**{field: value})


@pytest.mark.parametrize("token", [-1, 99, 49152])
def test_an_image_token_outside_the_vocabulary_is_rejected(token):
    message = f"`image_token_id` must be from 0 to 98, the vocabulary of the language model, but got {token}"
    with pytest.raises(ValueError, match=message):
        tiny.smolvlm_config(image_token_id=token)


@pytest.mark.parametrize("token", [0, 98])
def test_any_other_token_may_be_the_images(token):
    assert tiny.smolvlm_config(image_token_id=token).image_token_id == token


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_cross_attention_heads": 3}, "must divide the width 16, but got 3 heads"),
        ({"qformer_config": TEXT["gpt2"]}, "must have one of the model types distilbert, .* but got 'gpt2'"),
        (
            {"qformer_config": tiny.distilbert_config(n_layers=1)},
            "`cross_attention_frequency` must be 1, but got 2",
        ),
        (
            {"text_config": BertConfig(vocab_size=99)},
            r"'bert' uses bidirectional attention .* Set `text_config\.is_decoder=True`",
        ),
        ({"vision_config": TEXT["gpt2"]}, "must take `pixel_values`, but gpt2 takes"),
    ],
)
def test_parts_of_the_wrong_kind_are_rejected_when_the_model_is_built(fields, message):
    config = tiny.smolvlm_config(**fields)
    with pytest.raises(ValueError, match=message):
        SmolVLM(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_query_tokens", "32"),
        ("num_cross_attention_heads", 2.0),
        ("cross_attention_frequency", True),
        ("image_token_id", "<image>"),
        ("image_token_id", None),
        ("freeze_vision", 1),
        ("vision_config", 7),
        ("qformer_config", "distilbert"),
        ("text_config", "llama"),
    ],
)
def test_a_wrong_type_is_rejected(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'"):
        tiny.smolvlm_config(**{field: value})
