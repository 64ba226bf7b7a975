"""What all configurations and processors have in common, seen on the dual encoder's."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests import tiny

from vlmkit import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor, QFormerCaptioner


@pytest.fixture
def processor() -> DualEncoderProcessor:
    return tiny.dual_encoder_processor()


def image_pixels(processor: DualEncoderProcessor, image: object) -> torch.Tensor:
    return processor(images=image, return_tensors="pt")["pixel_values"]


def test_a_far_off_keyword_is_refused_with_all_fields():
    with pytest.raises(TypeError, match=r"DualEncoderConfig has no field 'banana'; its fields: .*text_features.*loss"):
        DualEncoderConfig(banana=1)


def test_keywords_of_transformers_itself_are_accepted(tmp_path):
    config = DualEncoderConfig(attn_implementation="eager", num_labels=3, name_or_path="me/tiny")
    assert config._attn_implementation == "eager"
    config.save_pretrained(tmp_path)
    loaded, unused = DualEncoderConfig.from_pretrained(tmp_path, temperature=0.5, banana=1, return_unused_kwargs=True)
    assert loaded.temperature == 0.5
    assert unused == {"banana": 1}


def test_a_keyword_of_neither_configuration_nor_model_is_refused(tmp_path):
    DualEncoderModel(tiny.dual_encoder_config()).save_pretrained(tmp_path)
    assert DualEncoderModel.from_pretrained(tmp_path, temperature=0.5).config.temperature == 0.5
    with pytest.raises(TypeError, match="'banana'"):
        DualEncoderModel.from_pretrained(tmp_path, banana=1)


def test_a_folder_without_weights_is_reported(tmp_path):
    tiny.dual_encoder_config().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=str(tmp_path)):
        DualEncoderModel.from_pretrained(tmp_path)


class TestStateDicts:
    """Of a model whose head is its token table, which is saved once."""

    @pytest.fixture(params=["gpt_neo", "llama"])
    def model(self, request) -> QFormerCaptioner:
        text = {"gpt_neo": tiny.gpt_neo_config(), "llama": tiny.llama_config(tie_word_embeddings=True)}[request.param]
        return QFormerCaptioner(tiny.qformer_captioner_config(text_config=text))

    @pytest.fixture
    def saved(self, model, tmp_path) -> dict[str, torch.Tensor]:
        model.save_pretrained(tmp_path)
        return load_file(tmp_path / "model.safetensors")

    def test_tied_weights_may_be_there_once(self, model, saved):
        [(head, table)] = model.all_tied_weights_keys.items()
        assert table in saved
        assert head not in saved
        other = QFormerCaptioner(model.config)
        assert other.load_state_dict(saved, strict=True).missing_keys == []
        assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_tied_weights_may_be_there_twice(self, model):
        other = QFormerCaptioner(model.config)
        other.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_what_is_missing_is_still_missing(self, model, saved):
        [(head, table)] = model.all_tied_weights_keys.items()
        del saved[table]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{table}", "{head}"'):
            model.load_state_dict(saved)
        assert set(model.load_state_dict(saved, strict=False).missing_keys) == {table, head}

    def test_a_head_of_its_own_is_not_replaced(self):
        text = tiny.llama_config(tie_word_embeddings=False)
        model, other = (QFormerCaptioner(tiny.qformer_captioner_config(text_config=text)) for _ in range(2))
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert not torch.equal(other.get_output_embeddings().weight, other.get_input_embeddings().weight)


def test_arguments_that_no_model_takes_are_refused():
    DualEncoderModel.check_forward_arguments({"output_attentions": 1, "num_items_in_batch": 2}.keys())
    with pytest.raises(
        TypeError, match=r"DualEncoderModel.forward has no argument 'pixels', did you mean 'pixel_values'"
    ):
        DualEncoderModel.check_forward_arguments({"output_attentions": 1, "pixels": 2}.keys())
    with pytest.raises(TypeError, match=r"QFormerCaptioner\.forward has no argument 'banana'$"):
        QFormerCaptioner.check_forward_arguments({"banana": 1}.keys())


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
    with pytest.raises(ValueError, match=r"no pad_token and no eos_token; set tokenizer\.pad_token"):
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
        ({"images": [], "text": ["a"]}, "images is an empty list; give at least one item or leave it out"),
        ({"text": []}, "text is an empty list"),
        ({"text": ""}, r"text 0 is empty \(''\)"),
        ({"text": ["a", " \n"]}, r"text 1 is empty \(' \\n'\); .*drop it"),
        ({"text": ["a", None]}, "list of strings"),
        ({"text": 7}, "list of strings"),
        ({}, "at least one input"),
    ],
)
def test_what_has_no_embedding_is_refused(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)
