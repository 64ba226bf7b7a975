"""Aligners made of pretrained parts."""

import pytest
import torch
from tests import tiny
from tests.models.qformer_aligner.large import TEXT
from transformers import AutoModel, AutoModelForMaskedLM, GPT2Model, PreTrainedModel

from vlmkit import QFormerAligner


def with_large_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Norms, biases, unused segments and padding included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture(params=["distilbert", "bert", "roberta"])
def text(request, tmp_path) -> PreTrainedModel:
    model = with_large_weights(AutoModel.from_config(TEXT[request.param]))
    model.save_pretrained(tmp_path / "text")
    return model


@pytest.fixture
def vision(tmp_path) -> PreTrainedModel:
    model = with_large_weights(AutoModel.from_config(tiny.vision_config(), add_pooling_layer=False))
    model.save_pretrained(tmp_path / "vision")
    return model


def texts(encoder: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Of different lengths, padded on the right with the encoder's padding, which RoBERTa counts by."""
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7])
    ids = torch.randint(5, 99, (3, 9)).masked_fill(mask == 0, encoder.config.pad_token_id or 0)
    return {"input_ids": ids, "attention_mask": mask}


def test_the_text_path_is_the_encoder(text, vision, tmp_path):
    model = QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    batch = texts(text)
    expected = text(**batch).last_hidden_state
    features = model.get_text_features(**batch)
    attended = batch["attention_mask"].bool()
    assert expected.std() > 0.1
    torch.testing.assert_close(features.last_hidden_state[attended], expected[attended], rtol=0, atol=1e-5)
    torch.testing.assert_close(features.pooler_output, expected[:, 0], rtol=0, atol=1e-5)

    left = {name: torch.stack([row.roll(n) for row, n in zip(batch[name], (0, 3, 7), strict=True)]) for name in batch}
    torch.testing.assert_close(model.get_text_features(**left).pooler_output, expected[:, 0], rtol=0, atol=1e-5)


def test_the_vision_tower_is_the_pretrained_one(text, vision, tmp_path):
    model = QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text", num_query_tokens=5)
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.vision_tower(pixels).last_hidden_state, vision(pixels).last_hidden_state)
    assert model.config.num_query_tokens == 5
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    assert all(parameter.requires_grad for parameter in model.qformer.parameters())
    assert str(tmp_path) not in model.config.to_json_string()

    model.save_pretrained(tmp_path / "saved")
    loaded, report = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_the_encoder_of_a_masked_language_model_is_taken(vision, tmp_path):
    masked = with_large_weights(AutoModelForMaskedLM.from_config(TEXT["distilbert"]))
    masked.save_pretrained(tmp_path / "text")
    model = QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    batch = texts(masked)
    expected = masked.distilbert(**batch).last_hidden_state[:, 0]
    torch.testing.assert_close(model.get_text_features(**batch).pooler_output, expected, rtol=0, atol=1e-5)


def test_positions_are_those_that_the_encoder_can_count(text, vision, tmp_path):
    model = QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    limit = 62 if text.config.model_type == "roberta" else 64
    model.get_text_features(torch.full((1, limit), 7))
    with pytest.raises(ValueError, match=f"{limit + 1} tokens exceed the {limit} learned positions; truncate the text"):
        model.get_text_features(torch.full((1, limit + 1), 7))


def test_precision_is_chosen(text, vision, tmp_path):
    folders = (tmp_path / "vision", tmp_path / "text")
    model = QFormerAligner.from_vision_text_pretrained(*folders, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_errors(vision, tmp_path):
    GPT2Model(tiny.text_config()).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="gpt2 is no text encoder that the Q-Former can start from"):
        QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    with pytest.raises(OSError, match="nowhere"):
        QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "nowhere")
    with pytest.raises(TypeError, match="no field 'num_querys', did you mean 'num_query_tokens'"):
        QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text", num_querys=3)
