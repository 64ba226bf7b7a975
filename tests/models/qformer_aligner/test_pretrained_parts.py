"""Aligners made of pretrained parts."""

from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.models.qformer_aligner.large import TEXT
from transformers import AutoModel, AutoModelForMaskedLM, GPT2Model, PreTrainedModel

from vlmkit import QFormerAligner, QFormerAlignerProcessor


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
    with pytest.raises(ValueError, match=f"must have at most {limit} tokens, .* but got {limit + 1}"):
        model.get_text_features(torch.full((1, limit + 1), 7))


def test_precision_is_chosen(text, vision, tmp_path):
    folders = (tmp_path / "vision", tmp_path / "text")
    model = QFormerAligner.from_vision_text_pretrained(*folders, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_errors(vision, tmp_path):
    GPT2Model(tiny.text_config()).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match=r"must have one of the model types distilbert, .* but got 'gpt2'"):
        QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    with pytest.raises(OSError, match="nowhere"):
        QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "nowhere")
    with pytest.raises(TypeError, match=r"no field 'num_querys'. Did you mean 'num_query_tokens'"):
        QFormerAligner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text", num_querys=3)


class TestAddedTokens:
    """The processor's tokenizer has tokens that the text encoder does not know."""

    ADDED = {"pad_token": "<PAD>", "sep_token": "<SEP>"}  # noqa: RUF012
    CAPTIONS = ("a dog <SEP> a cat", "a tree")

    @pytest.fixture
    def folders(self, text, vision, tmp_path) -> tuple[Path, Path]:
        """The text encoder knows as many tokens as the tokenizer of its folder."""
        text.resize_token_embeddings(len(tiny.tokenizer()), mean_resizing=False)
        text.save_pretrained(tmp_path / "text")
        tiny.tokenizer().save_pretrained(tmp_path / "text")
        tiny.image_processor().save_pretrained(tmp_path / "vision")
        return tmp_path / "vision", tmp_path / "text"

    @pytest.fixture
    def processor(self, folders) -> QFormerAlignerProcessor:
        return QFormerAlignerProcessor.from_vision_text_pretrained(*folders, **self.ADDED)

    def test_get_embeddings(self, text, folders, processor, tmp_path):
        num_known, size = len(tiny.tokenizer()), len(processor.tokenizer)
        assert size == num_known + 2
        weights = {"matching_loss_weight": 1, "captioning_loss_weight": 1}
        model = QFormerAligner.from_vision_text_pretrained(*folders, processor=processor, **weights)
        embeddings = model.get_input_embeddings().weight
        assert model.config.text_config.vocab_size == size
        assert embeddings.shape == (size, text.config.hidden_size)
        torch.testing.assert_close(embeddings[:num_known], text.get_input_embeddings().weight, rtol=0, atol=0)
        assert embeddings.requires_grad

        batch = processor(images=[tiny.photo()] * 2, text=list(self.CAPTIONS), return_tensors="pt")
        assert {num_known, num_known + 1} <= set(batch["input_ids"].flatten().tolist())
        loss = model(**batch).loss
        loss.backward()
        assert embeddings.grad[processor.tokenizer.sep_token_id].abs().sum() > 0
        model.save_pretrained(tmp_path / "saved")
        loaded, report = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert not any(report.values()), report
        torch.testing.assert_close(loaded(**batch).loss, loss)

    def test_change_no_other_text(self, text, folders, processor):
        before, after = (
            QFormerAligner.from_vision_text_pretrained(*folders, processor=each) for each in (None, processor)
        )
        assert before.config.text_config.vocab_size == len(tiny.tokenizer())
        ids = torch.tensor([tiny.tokenizer()(tiny.SENTENCES[0])["input_ids"]])
        states = [model.get_text_features(ids).last_hidden_state for model in (before, after)]
        torch.testing.assert_close(*states)
        torch.testing.assert_close(states[1], text(ids).last_hidden_state, rtol=0, atol=1e-5)

    def test_of_a_vocabulary_that_is_smaller(self, text, folders, processor, tmp_path):
        text.resize_token_embeddings(99, mean_resizing=False)
        text.save_pretrained(tmp_path / "larger")
        model = QFormerAligner.from_vision_text_pretrained(folders[0], tmp_path / "larger", processor=processor)
        assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == 99

    def test_in_half_precision(self, folders, processor):
        model = QFormerAligner.from_vision_text_pretrained(*folders, processor=processor, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
