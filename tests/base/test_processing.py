"""What all processors share, seen on that of the dual encoder."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny

from vlmkit import DualEncoderProcessor
from vlmkit.base.processing import load_tokenizer


@pytest.fixture
def processor() -> DualEncoderProcessor:
    return tiny.dual_encoder_processor()


def image_pixels(processor: DualEncoderProcessor, image: object) -> torch.Tensor:
    return processor(images=image, return_tensors="pt")["pixel_values"]


def test_a_tokenizer_without_padding_token_pads_with_its_end_token(processor):
    assert processor.tokenizer.pad_token == "<eos>"
    batch = processor(text=["a red circle <eos>", "a"], return_tensors="pt")
    eos = processor.tokenizer.eos_token_id
    assert batch["input_ids"][:, 3].tolist() == [eos, eos]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]  # a real end token is no padding


def test_a_padding_token_is_kept():
    processor = DualEncoderProcessor(tiny.image_processor(), tiny.tokenizer(pad_token="<pad>"))
    assert processor.tokenizer.pad_token == "<pad>"


def test_a_tokenizer_with_nothing_to_pad_with_is_refused():
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"must have a `pad_token` or an `eos_token`\. Set `tokenizer\.pad_token`"):
        DualEncoderProcessor(tiny.image_processor(), tokenizer)


def test_texts_are_padded_to_the_longest_and_cut_at_77_tokens(processor):
    assert processor(text=["a " * 100, "a"], return_tensors="pt")["input_ids"].shape == (2, 77)
    assert processor(text=["a a a", "a"], return_tensors="pt")["input_ids"].shape == (2, 3)
    assert processor(text=["a a a", "a"], max_length=2, return_tensors="pt")["input_ids"].shape == (2, 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_images_of_any_mode(processor, mode):
    white = Image.new("RGB", (40, 40), "white")
    image = Image.new(mode, (40, 40), 65535) if mode == "I;16" else white.convert(mode)
    assert image.mode == mode
    assert torch.equal(image_pixels(processor, image), image_pixels(processor, white))


@pytest.mark.parametrize("size", [(1, 1), (10_000, 10), (10, 10_000)], ids=str)
def test_images_of_any_size(processor, size):
    assert image_pixels(processor, Image.new("RGB", size)).shape == (1, 3, 32, 32)


def test_a_file_gives_the_pixels_of_its_image(processor, tmp_path):
    deep = Image.fromarray(np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    assert torch.equal(image_pixels(processor, str(tmp_path / "deep.png")), image_pixels(processor, deep))
    assert torch.equal(image_pixels(processor, [tmp_path / "deep.png"]), image_pixels(processor, deep))


def test_an_image_that_cannot_be_had_is_named(processor):
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        processor(images=["missing.jpg"])
    with pytest.raises(TypeError, match="int"):
        processor(images=[7])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"images": [], "text": ["a"]}, "`images` must not be an empty list"),
        ({"text": []}, "`text` must not be an empty list"),
        ({"text": ""}, r"Text 0 must not be empty, but got ''"),
        ({"text": ["a", " \n"]}, r"Text 1 must not be empty, but got ' \\n'\. Remove it"),
        ({"text": ["a", None]}, "list of strings"),
        ({"text": 7}, "list of strings"),
        ({}, "at least one input"),
    ],
)
def test_what_has_no_embedding_is_refused(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


@pytest.mark.parametrize("config", [tiny.vision_config(), tiny.text_config()], ids=["vit", "gpt2"])
def test_a_text_model_without_tokenizer(config, tmp_path):
    config.save_pretrained(tmp_path)
    tiny.image_processor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`text` must be a model with a tokenizer, but got .*Pass the folder"):
        DualEncoderProcessor.from_vision_text_pretrained(tmp_path, tmp_path)


def test_a_misspelt_special_token_is_rejected(tmp_path):
    with pytest.raises(TypeError, match=r"has no argument 'bos_tokn'. Did you mean 'bos_token'"):
        DualEncoderProcessor.from_vision_text_pretrained(tmp_path, tmp_path, bos_tokn="<START>")


class TestLoadTokenizer:
    def test_special_tokens_replace_those_of_the_folder(self, tmp_path):
        tiny.tokenizer(pad_token="<pad>").save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).get_vocab() == tiny.tokenizer(pad_token="<pad>").get_vocab()
        tokenizer = load_tokenizer(tmp_path, bos_token="<START>")
        assert tokenizer.bos_token_id == len(tiny.tokenizer(pad_token="<pad>"))
        assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(OSError, match="nowhere"):
            load_tokenizer(tmp_path / "nowhere")


def test_a_processor_determines_nothing_of_a_model_by_default(processor):
    assert processor.special_token_ids() == {}
    fields = {"loss": "sigmoid"}
    completed = processor.complete_config(fields)
    assert completed == fields
    assert completed is not fields
