import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, BatchFeature, GPT2LMHeadModel, ViTModel

from vlmkit import QFormerCaptionerProcessor

LONG = "a " * 100


@pytest.fixture
def processor() -> QFormerCaptionerProcessor:
    return make()


def make(**special_tokens: str) -> QFormerCaptionerProcessor:
    tokens = {"bos_token": "<start>", **special_tokens}
    return QFormerCaptionerProcessor(tiny.image_processor(), tiny.tokenizer(**tokens))


def words(processor: QFormerCaptionerProcessor, batch: BatchFeature, name: str = "input_ids") -> list[str]:
    """Tokens of each row, `-` where a label counts in no loss."""
    ids = batch[name].masked_fill(batch[name] == -100, 0)
    tokens = [processor.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
    return [" ".join(row).replace("<unk>", "-") for row in tokens]


class TestPrompts:
    def test_begin_with_the_start_and_are_padded_on_the_left(self, processor):
        batch = processor(text=["a red", "", "a"], return_tensors="pt")
        assert words(processor, batch) == ["<start> a red", "<eos> <eos> <start>", "<eos> <start> a"]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
        assert batch.keys() == {"input_ids", "attention_mask"}

    def test_may_be_a_single_string(self, processor):
        for text in ("a red", ["a red"], ("a red",)):
            assert words(processor, processor(text=text, return_tensors="pt")) == ["<start> a red"]
        assert words(processor, processor(text="", return_tensors="pt")) == ["<start>"]

    def test_of_images(self, processor):
        photos = [tiny.photo(seed=row) for row in range(2)]
        batch = processor(photos, ["a", ""], return_tensors="pt")
        assert batch["pixel_values"].shape == (2, 3, 32, 32)
        assert batch["input_ids"].shape == (2, 2)
        one = processor(images=photos[0], text="a", return_tensors="pt")
        assert torch.equal(one["pixel_values"][0], batch["pixel_values"][0])
        assert one["input_ids"].tolist() == batch["input_ids"][:1].tolist()

    def test_options_of_the_tokenizer_are_obeyed(self, processor):
        batch = processor(text=["a red", ""], padding_side="right", return_tensors="pt")
        assert words(processor, batch) == ["<start> a red", "<start> <eos> <eos>"]
        batch = processor(text=["a"], padding="max_length", max_length=5, return_tensors="pt")
        assert words(processor, batch) == ["<eos> <eos> <eos> <start> a"]
        assert [len(row) for row in processor(text=["a", ""], padding=False)["input_ids"]] == [2, 1]

    def test_a_padding_token_of_its_own_is_used(self):
        processor = make(pad_token="<pad>")
        batch = processor(text=["a", ""], return_tensors="pt")
        assert words(processor, batch) == ["<start> a", "<pad> <start>"]


class TestLabels:
    def test_are_words_and_a_real_end(self, processor):
        batch = processor(text=["a red", "a", "a <eos> a"], return_labels=True, return_tensors="pt")
        assert words(processor, batch) == [
            "<start> a red <eos> <eos>",
            "<start> a <eos> <eos> <eos>",
            "<start> a <eos> a <eos>",
        ]
        assert words(processor, batch, "labels") == ["- a red <eos> -", "- a <eos> - -", "- a <eos> a <eos>"]
        assert batch["attention_mask"].sum(1).tolist() == [4, 3, 5]

    def test_do_not_depend_on_the_padding_side(self, processor):
        batch = processor(text=["a red", "a"], return_labels=True, return_tensors="pt", padding_side="left")
        assert words(processor, batch) == ["<start> a red <eos>", "<eos> <start> a <eos>"]
        assert words(processor, batch, "labels") == ["- a red <eos>", "- - a <eos>"]

    def test_of_a_long_caption_lose_its_end(self, processor):
        batch = processor(text=[LONG, "a"], return_labels=True, return_tensors="pt")
        assert batch["labels"].shape == batch["input_ids"].shape == (2, 64)
        end = processor.tokenizer.eos_token_id
        assert (batch["labels"] == end).sum(1).tolist() == [0, 1]
        assert batch["input_ids"][0, 0] == processor.tokenizer.bos_token_id

    @pytest.mark.parametrize("length", [1, 2, 3, 10])
    def test_are_never_longer_than_asked_for(self, processor, length):
        batch = processor(text=[LONG, "a red"], return_labels=True, return_tensors="pt", max_length=length)
        assert batch["input_ids"].shape[1] == length
        assert (batch["input_ids"][:, 0] == processor.tokenizer.bos_token_id).all()
        assert (batch["labels"][:, 0] == -100).all()

    def test_the_exact_length_keeps_the_end(self, processor):
        batch = processor(text=["a red"], return_labels=True, return_tensors="pt", max_length=4)
        assert words(processor, batch, "labels") == ["- a red <eos>"]

    def test_are_not_there_unless_asked_for(self, processor):
        assert "labels" not in processor(text=["a"], return_tensors="pt")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"images": [tiny.photo()], "return_tensors": "pt"}, "requires captions as `text`"),
            ({"text": ["a"]}, 'and `return_tensors="pt"`'),
            ({"text": ["a"], "return_tensors": "np"}, 'and `return_tensors="pt"`'),
            ({"text": ["a", ""], "return_tensors": "pt"}, r"Text 1 must not be empty, but got ''"),
            ({"text": "  ", "return_tensors": "pt"}, r"Text 0 must not be empty, but got '  '"),
        ],
    )
    def test_need_captions(self, processor, arguments, message):
        with pytest.raises(ValueError, match=message):
            processor(**arguments, return_labels=True)


class TestImages:
    def test_alone(self, processor):
        batch = processor(images=[tiny.photo()], return_tensors="pt")
        assert batch.keys() == {"pixel_values"}

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
    def test_of_any_mode(self, processor, mode):
        white = Image.new("RGB", (40, 40), "white")
        image = Image.new(mode, (40, 40), 65535) if mode == "I;16" else white.convert(mode)
        pixels = [processor(images=[each], return_tensors="pt")["pixel_values"] for each in (image, white)]
        assert torch.equal(*pixels)

    def test_from_files(self, processor, tmp_path):
        tiny.photo().save(tmp_path / "a.png")
        pixels = [
            processor(images=given, text="a", return_tensors="pt")["pixel_values"]
            for given in (tiny.photo(), str(tmp_path / "a.png"), [tmp_path / "a.png"], np.array(tiny.photo()))
        ]
        assert all(torch.equal(pixels[0], other) for other in pixels)

    def test_an_unreadable_file_is_named(self, processor, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        with pytest.raises(OSError, match=r"broken\.jpg"):
            processor(images=[tmp_path / "broken.jpg"], text=[""])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": [tiny.photo()] * 2, "text": ["a"]}, r"2 images and 1 texts\. Pass one image for each text"),
        ({"images": tiny.photo(), "text": ["a", "a"]}, "1 images and 2 texts"),
        ({"images": [], "text": ["a"]}, "`images` must not be an empty list"),
        ({"images": [], "text": []}, "`images` must not be an empty list"),
        ({"images": [tiny.photo()], "text": []}, "`text` must not be an empty list"),
        ({"text": []}, "`text` must not be an empty list"),
        ({}, "at least one input"),
        ({"text": ["a", None]}, "list of strings"),
        ({"text": 7}, "list of strings"),
    ],
)
@pytest.mark.parametrize("return_labels", [False, True])
def test_what_does_not_fit_is_refused(processor, arguments, message, return_labels):
    if return_labels and "text" not in arguments:
        message = "requires captions as `text`"
    with pytest.raises(ValueError, match=message):
        processor(**arguments, return_labels=return_labels, return_tensors="pt")


def test_decoding_leaves_special_tokens_out_where_asked_for(processor):
    batch = processor(text=["a red", "a"], return_labels=True, return_tensors="pt")
    assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["a red", "a"]
    assert processor.decode(batch["input_ids"][1], skip_special_tokens=True) == "a"
    assert processor.decode(batch["input_ids"][1]).startswith("<start>")


class TestTokenizers:
    @pytest.mark.parametrize(("missing", "verb"), [("bos_token", "begins"), ("eos_token", "ends")])
    def test_without_a_start_or_an_end_are_refused(self, missing, verb):
        tokenizer = tiny.tokenizer(bos_token="<start>")
        setattr(tokenizer, missing, None)
        message = rf"must have a `{missing}`, with which every caption {verb}, .* Set `tokenizer\.{missing}`"
        with pytest.raises(ValueError, match=message):
            QFormerCaptionerProcessor(tiny.image_processor(), tokenizer)

    def test_without_padding_pad_with_the_end(self, processor):
        assert processor.tokenizer.pad_token == "<eos>"

    def test_that_add_a_start_themselves_do_not_add_another(self):
        tokenizer = tiny.tokenizer(bos_token="<start>")
        start = ("<start>", tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<start> $A", special_tokens=[start])
        processor = QFormerCaptionerProcessor(tiny.image_processor(), tokenizer)
        assert words(processor, processor(text="a", return_tensors="pt")) == ["<start> a"]


class TestFolders:
    @pytest.mark.parametrize("load", [AutoProcessor.from_pretrained, QFormerCaptionerProcessor.from_pretrained])
    def test_give_the_same_processor_back(self, processor, load, tmp_path):
        processor.save_pretrained(tmp_path)
        loaded = load(tmp_path)
        assert type(loaded) is QFormerCaptionerProcessor
        call = {"images": [tiny.photo()] * 2, "text": ["a red", "a"], "return_tensors": "pt"}
        for return_labels in (False, True):
            expected, batch = (each(**call, return_labels=return_labels) for each in (processor, loaded))
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[name], expected[name]) for name in expected)

    def test_of_two_checkpoints(self, tmp_path):
        vision, text = tmp_path / "vision", tmp_path / "text"
        ViTModel(tiny.vision_config()).save_pretrained(vision)
        tiny.image_processor().save_pretrained(vision)
        GPT2LMHeadModel(tiny.text_config()).save_pretrained(text)
        tiny.tokenizer(bos_token="<start>").save_pretrained(text)
        processor = QFormerCaptionerProcessor.from_vision_text_pretrained(vision, text)
        batch = processor([tiny.photo()], ["a"], return_labels=True, return_tensors="pt")
        assert words(processor, batch) == ["<start> a <eos>"]
        assert batch["pixel_values"].shape == (1, 3, 32, 32)
        with pytest.raises(OSError, match=r"Can't load image processor for .*text"):
            QFormerCaptionerProcessor.from_vision_text_pretrained(text, vision)

    def test_of_a_tokenizer_without_a_start_take_one(self, tmp_path):
        tiny.image_processor().save_pretrained(tmp_path)
        ViTModel(tiny.vision_config()).save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="The tokenizer must have a `bos_token`"):
            QFormerCaptionerProcessor.from_vision_text_pretrained(tmp_path, tmp_path)
        processor = QFormerCaptionerProcessor.from_vision_text_pretrained(tmp_path, tmp_path, bos_token="photo")
        assert words(processor, processor(text="a", return_tensors="pt")) == ["photo a"]
