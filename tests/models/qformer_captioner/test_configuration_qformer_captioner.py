import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tests import tiny
from transformers import CLIPVisionConfig, GPTNeoConfig

from vlmkit import QFormerCaptioner, QFormerCaptionerConfig
from vlmkit.training import freeze_lower_blocks

# The parameters of the original by its own table, in which the encoder holds CLIP's never used text tower and the
# Q-Former the language model's cross attention and a projection that nothing uses.
ORIGINAL = {"encoder": 152_064_769, "language model": 355_800_064, "Q-Former": 66_196_481}
CLIP_TEXT_TOWER = 63_821_313  # with the two projections and the temperature of the whole
QUERY_PROJECTION = 1024 * 1024 + 1024


def count(module: torch.nn.Module, trainable: bool = False) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)


@pytest.fixture(scope="module")
def original() -> QFormerCaptioner:
    """The default model, without memory."""
    with torch.device("meta"):
        return QFormerCaptioner(QFormerCaptionerConfig())


def test_defaults_are_the_originals():
    config = QFormerCaptionerConfig()
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, CLIPVisionConfig)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size) == (768, 12, 32, 224)
    assert isinstance(text, GPTNeoConfig)
    assert (text.hidden_size, text.num_layers, text.num_heads, text.window_size) == (1024, 24, 16, 256)
    assert (text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id) == (50259, 50257, 50258, 50256)
    assert (config.num_query_tokens, config.num_qformer_layers, config.num_attention_heads) == (64, 2, 8)
    assert config.dropout == 0.1
    assert config.freeze_vision
    assert config.vision_layers is None
    assert config.tie_word_embeddings


def test_parameters_are_the_originals_less_what_it_never_uses(original):
    sizes = {name: count(part) for name, part in original.model.named_children()}
    projection = count(original.model.connector.vision_projection)
    assert projection == 768 * 1024 + 1024
    assert sizes == {
        "vision_tower": 87_456_000,
        "language_model": 355_800_064,
        "connector": projection + 52_550_656,
        "cross_attention": 12_596_225,
        "embedding_dropout": 0,
    }
    assert sizes["vision_tower"] + projection == ORIGINAL["encoder"] - CLIP_TEXT_TOWER
    assert sizes["connector"] - projection + sizes["cross_attention"] == ORIGINAL["Q-Former"] - QUERY_PROJECTION
    assert sizes["language_model"] == ORIGINAL["language model"]
    assert original.lm_head.weight is original.get_input_embeddings().weight
    assert count(original) == sum(ORIGINAL.values()) - CLIP_TEXT_TOWER - QUERY_PROJECTION


def test_what_trains_is_the_originals_and_the_image_projection(original):
    assert count(original.get_encoder("image"), trainable=True) == 0
    assert freeze_lower_blocks(original, fraction=0.4) == 9
    assert count(original.get_decoder(), trainable=True) == 240_364_544
    original_trains = 240_364_544 + ORIGINAL["Q-Former"] - QUERY_PROJECTION
    assert count(original, trainable=True) == original_trains + count(original.model.connector.vision_projection)


def test_parts_may_be_dictionaries():
    config = QFormerCaptionerConfig(
        vision_config=tiny.vision_config().to_dict(), text_config={"model_type": "gpt2", "n_embd": 16}
    )
    assert config.vision_config.model_type == "vit"
    assert (config.text_config.model_type, config.text_config.hidden_size) == ("gpt2", 16)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_tied_where_the_language_models_is(tied):
    model = QFormerCaptioner(tiny.qformer_captioner_config(text_config=tiny.llama_config(tie_word_embeddings=tied)))
    assert model.config.tie_word_embeddings is tied
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied


@pytest.mark.parametrize("field", ["num_query_tokens", "num_qformer_layers", "num_attention_heads"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_1_is_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be at least 1, but got {value}"):
        tiny.qformer_captioner_config(**{field: value})


@pytest.mark.parametrize("dropout", [-0.1, 1.1, 2, float("nan")])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(ValueError, match=f"`dropout` must be a probability from 0 to 1, but got {dropout}"):
        tiny.qformer_captioner_config(dropout=dropout)


@pytest.mark.parametrize("dropout", [0, 0.0, 0.5, 1])
def test_any_probability_is_a_dropout(dropout):
    assert tiny.qformer_captioner_config(dropout=dropout).dropout == dropout


def test_no_vision_layers_at_all_are_refused():
    with pytest.raises(ValueError, match="`vision_layers` must contain at least one layer, but got an empty list"):
        tiny.qformer_captioner_config(vision_layers=[])


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"must divide the width 16, but got 3 heads\. Choose a divisor"):
        QFormerCaptioner(tiny.qformer_captioner_config(num_attention_heads=3))


def test_a_text_model_without_a_language_models_head_is_refused():
    with pytest.raises(ValueError, match=r"(?i)vit.*causal"):
        QFormerCaptioner(tiny.qformer_captioner_config(text_config=tiny.vision_config()))


def test_an_unknown_vision_model_is_refused():
    with pytest.raises(ValueError, match="vlmkit_qformer_captioner"):
        QFormerCaptioner(tiny.qformer_captioner_config(vision_config=tiny.qformer_captioner_config()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_query_tokens", "64"),
        ("num_query_tokens", 2.0),
        ("num_qformer_layers", True),
        ("num_attention_heads", None),
        ("dropout", "0.1"),
        ("freeze_vision", 1),
        ("vision_layers", 3),
        ("vision_layers", ["last"]),
        ("vision_config", 7),
        ("text_config", "gpt2"),
    ],
)
def test_a_wrong_type_is_refused(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'"):
        tiny.qformer_captioner_config(**{field: value})
