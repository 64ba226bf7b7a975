import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tests import tiny
from transformers import BertConfig, DistilBertConfig, GPT2Config, RobertaConfig, ViTConfig

from vlmkit import QFormerAligner, QFormerAlignerConfig

WEIGHTS = ("contrastive_loss_weight", "matching_loss_weight", "captioning_loss_weight")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_defaults_are_the_originals():
    config = QFormerAlignerConfig()
    assert isinstance(config.vision_config, ViTConfig)
    assert isinstance(config.text_config, DistilBertConfig)
    assert (config.num_query_tokens, config.cross_attention_frequency) == (32, 2)
    assert [getattr(config, name) for name in WEIGHTS] == [1, 0, 0]
    assert config.temperature == 0.07
    assert config.learn_temperature is config.original_causal_mask is False
    assert config.freeze_vision


def test_parameters_are_the_originals():
    with torch.device("meta"):
        model = QFormerAligner(QFormerAlignerConfig())
    crosses = [layer.image_attention for layer in model.qformer.layers]
    assert [cross is not None for cross in crosses] == [False, True] * 3
    assert crosses[1].cross_attention.attention.head_dim == 64
    assert isinstance(model.vision_projection, torch.nn.Identity)
    # The original's Q-Former: DistilBERT, three blocks that attend to the image, queries.
    assert count(model.text_embeddings) + count(model.qformer) == 87_651_072
    assert count(model) - count(model.vision_tower) == 87_651_072


@pytest.mark.parametrize(("frequency", "expected"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [1]), (4, [1]), (9, [1])])
def test_which_layers_look_at_the_image(frequency, expected):
    model = QFormerAligner(tiny.qformer_aligner_config(cross_attention_frequency=frequency))
    assert [row for row, layer in enumerate(model.qformer.layers) if layer.image_attention is not None] == expected


def test_heads_exist_where_their_loss_does():
    model = QFormerAligner(tiny.qformer_aligner_config())
    assert model.matching_head is model.captioning_head is model.logit_scale is None
    both = QFormerAligner(tiny.qformer_aligner_config(matching_loss_weight=1, captioning_loss_weight=0.5))
    new = both.state_dict().keys() - model.state_dict().keys()
    assert {name.split(".")[0] for name in new} == {"matching_head", "captioning_head"}


def test_dropout_is_the_text_encoders():
    bert = BertConfig(**SIZES, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    distilbert = tiny.distilbert_config(dropout=0.3, attention_dropout=0.2)
    for text_config, after_attention in ((bert, 0.3), (distilbert, 0.0)):
        model = QFormerAligner(tiny.qformer_aligner_config(text_config=text_config))
        layer = model.qformer.layers[1]
        assert model.text_embeddings.dropout.p == 0.3
        assert layer.self_attention.attention.dropout == 0.2
        assert layer.self_attention.dropout.p == after_attention
        assert [layer.feed_forward.mlp.drop1.p, layer.feed_forward.mlp.drop2.p] == [0.0, 0.3]
        cross = layer.image_attention
        assert cross.cross_attention.attention.dropout == cross.feed_forward.mlp.drop2.p == 0


@pytest.mark.parametrize("field", ["num_query_tokens", "num_cross_attention_heads", "cross_attention_frequency"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_1_is_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be at least 1, but got {value}"):
        tiny.qformer_aligner_config(**{field: value})


@pytest.mark.parametrize("field", WEIGHTS)
@pytest.mark.parametrize("value", [-1, -0.1, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be a finite number of at least 0, but got {value}"):
        tiny.qformer_aligner_config(**{field: value})


@pytest.mark.parametrize("captioning", [0, 1.0])
def test_something_must_train_the_queries(captioning):
    with pytest.raises(ValueError, match="`contrastive_loss_weight` or `matching_loss_weight` must be positive"):
        tiny.qformer_aligner_config(contrastive_loss_weight=0, captioning_loss_weight=captioning)


def test_temperatures_are_checked():
    with pytest.raises(ValueError, match="`temperature` must be positive, but got 0"):
        tiny.qformer_aligner_config(temperature=0)
    with pytest.raises(ValueError, match="`learn_temperature` must be `False` with `contrastive_loss_weight=0`"):
        tiny.qformer_aligner_config(learn_temperature=True, contrastive_loss_weight=0, matching_loss_weight=1)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"must divide the width 16, but got 3 heads\. Choose a divisor"):
        QFormerAligner(tiny.qformer_aligner_config(num_cross_attention_heads=3))


def test_an_encoder_too_shallow_for_the_frequency_is_refused():
    config = tiny.qformer_aligner_config(text_config=tiny.distilbert_config(n_layers=1))
    with pytest.raises(ValueError, match="With 1 layers, `cross_attention_frequency` must be 1, but got 2"):
        QFormerAligner(config)


@pytest.mark.parametrize("text_config", [GPT2Config(n_embd=16, n_layer=1, n_head=2), tiny.vision_config()])
def test_a_text_model_of_another_family_is_refused(text_config):
    with pytest.raises(ValueError, match=f"distilbert, bert, roberta .* but got '{text_config.model_type}'"):
        QFormerAligner(tiny.qformer_aligner_config(text_config=text_config))


@pytest.mark.parametrize(
    "text_config",
    [
        tiny.distilbert_config(activation="relu"),
        *(kind(**SIZES, hidden_act="relu") for kind in (BertConfig, RobertaConfig)),
    ],
)
def test_another_activation_is_refused(text_config):
    with pytest.raises(ValueError, match="must be 'gelu', but got 'relu'"):
        QFormerAligner(tiny.qformer_aligner_config(text_config=text_config))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_query_tokens", "32"),
        ("num_query_tokens", 2.0),
        ("num_cross_attention_heads", True),
        ("cross_attention_frequency", None),
        ("matching_loss_weight", "1"),
        ("original_causal_mask", 1),
        ("text_config", "distilbert"),
    ],
)
def test_a_wrong_type_is_refused(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'"):
        tiny.qformer_aligner_config(**{field: value})
