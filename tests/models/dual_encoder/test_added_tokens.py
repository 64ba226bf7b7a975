"""A dual encoder takes the tokens over that its processor has added to the text model's."""

from pathlib import Path

import pytest
import torch
from tests import tiny
from transformers import AutoModel, AutoProcessor, BertConfig, PreTrainedConfig, PreTrainedModel

from vlmkit import DualEncoderModel, DualEncoderProcessor

NUM_KNOWN = len(tiny.tokenizer())
ADDED = {"pad_token": "<PAD>", "sep_token": "<SEP>"}
BERT_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT: dict[str, PreTrainedConfig] = {
    "gpt2": tiny.text_config(vocab_size=NUM_KNOWN, initializer_range=0.5),
    "bert": BertConfig(**BERT_SIZES, vocab_size=NUM_KNOWN, initializer_range=0.5),
}


@pytest.fixture(params=TEXT)
def text(request) -> PreTrainedModel:
    return AutoModel.from_config(TEXT[request.param]).eval()


@pytest.fixture
def folders(text, tmp_path) -> tuple[Path, Path]:
    """A vision and a text model with their preprocessing."""
    AutoModel.from_config(tiny.vision_config()).save_pretrained(tmp_path / "vision")
    tiny.image_processor().save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    tiny.tokenizer().save_pretrained(tmp_path / "text")
    return tmp_path / "vision", tmp_path / "text"


@pytest.mark.parametrize("text_features", ["token_embeddings", "encoder"])
def test_embeddings_are_extended(folders, text, text_features, tmp_path):
    processor = DualEncoderProcessor.from_vision_text_pretrained(*folders, **ADDED)
    assert len(processor.tokenizer) == NUM_KNOWN + 2
    options = {"processor": processor, "text_features": text_features}
    model = DualEncoderModel.from_vision_text_pretrained(*folders, **options)
    assert model.config.text_config.vocab_size == NUM_KNOWN + 2
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape == (NUM_KNOWN + 2, 16)
    torch.testing.assert_close(embeddings[:NUM_KNOWN], text.get_input_embeddings().weight, rtol=0, atol=0)
    assert embeddings[NUM_KNOWN:].isfinite().all()
    assert not any(parameter.requires_grad for parameter in model.text_tower.parameters())

    batch = processor(images=[tiny.photo()] * 2, text=["a dog <SEP> a cat", "a tree"], return_tensors="pt")
    assert {NUM_KNOWN, NUM_KNOWN + 1} <= set(batch["input_ids"].flatten().tolist())
    outputs = model(**batch)
    assert outputs.loss.isfinite()
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded, report = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    batch = AutoProcessor.from_pretrained(tmp_path / "saved")(
        images=[tiny.photo()] * 2, text=["a dog <SEP> a cat", "a tree"], return_tensors="pt"
    )
    torch.testing.assert_close(loaded(**batch).loss, outputs.loss)


@pytest.mark.parametrize("text_features", ["token_embeddings", "encoder"])
def test_known_texts_are_embedded_as_before(folders, text, text_features):
    processor = DualEncoderProcessor.from_vision_text_pretrained(*folders, **ADDED)
    before, after = (
        DualEncoderModel.from_vision_text_pretrained(*folders, processor=each, text_features=text_features)
        for each in (None, processor)
    )
    assert before.config.text_config.vocab_size == NUM_KNOWN
    ids = torch.tensor([tiny.tokenizer()(tiny.SENTENCES[0])["input_ids"]])
    states = [model.get_text_features(ids).last_hidden_state for model in (before, after)]
    torch.testing.assert_close(*states)
    if text_features == "encoder":
        torch.testing.assert_close(states[1], text(ids).last_hidden_state)


def test_larger_embeddings_are_kept(folders, tmp_path):
    AutoModel.from_config(tiny.text_config()).save_pretrained(tmp_path / "larger")
    processor = DualEncoderProcessor.from_vision_text_pretrained(*folders, **ADDED)
    model = DualEncoderModel.from_vision_text_pretrained(folders[0], tmp_path / "larger", processor=processor)
    assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == 99


def test_in_half_precision(folders):
    processor = DualEncoderProcessor.from_vision_text_pretrained(*folders, **ADDED)
    model = DualEncoderModel.from_vision_text_pretrained(*folders, processor=processor, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.get_input_embeddings().num_embeddings == NUM_KNOWN + 2
