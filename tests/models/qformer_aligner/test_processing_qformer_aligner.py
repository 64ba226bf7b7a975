import pytest
from tests import tiny

from vlmkit import QFormerAlignerProcessor


@pytest.fixture
def processor() -> QFormerAlignerProcessor:
    return tiny.qformer_aligner_processor()


def test_texts_are_padded_to_the_longest(processor):
    batch = processor(images=[tiny.photo()], text=tiny.SENTENCES, return_tensors="pt")
    assert batch.keys() == {"pixel_values", "input_ids", "attention_mask"}
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(caption.split()) for caption in tiny.SENTENCES]


def test_texts_are_cut_at_64_tokens_unless_told_otherwise(processor):
    assert processor(text="a " * 100, return_tensors="pt")["input_ids"].shape == (1, 64)
    assert processor(text="a " * 100, max_length=7, return_tensors="pt")["input_ids"].shape == (1, 7)


@pytest.mark.parametrize("text", ["", ["a dog", " "]])
def test_an_empty_caption_is_refused(processor, text):
    with pytest.raises(ValueError, match=r"Text [01] must not be empty, but got .*\. Remove it"):
        processor(text=text, return_tensors="pt")


def test_no_images_are_refused(processor):
    with pytest.raises(ValueError, match="`images` must not be an empty list"):
        processor(images=[], text=["a dog"], return_tensors="pt")


def test_parts_come_from_two_folders(processor, tmp_path):
    processor.image_processor.save_pretrained(tmp_path / "vision")
    processor.tokenizer.save_pretrained(tmp_path / "text")
    joined = QFormerAlignerProcessor.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    expected = processor(images=[tiny.photo()], text="a dog", return_tensors="pt")
    batch = joined(images=[tiny.photo()], text="a dog", return_tensors="pt")
    assert all(batch[name].equal(expected[name]) for name in expected)
    with pytest.raises(OSError, match="nowhere"):
        QFormerAlignerProcessor.from_vision_text_pretrained(tmp_path / "nowhere", tmp_path / "text")
