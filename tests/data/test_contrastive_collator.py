import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

from vlmkit import DualEncoderProcessor
from vlmkit.data import ContrastiveCollator, group_id


class Recorder:
    """Stands in for a processor and keeps what it was called with."""

    def __call__(self, **inputs):
        self.inputs = inputs
        return {"pixel_values": torch.zeros(1)} if "images" in inputs else {"input_ids": torch.zeros(1)}


def row(image_id: str = "a.jpg", **columns) -> dict:
    return {"image_id": image_id, "image": Image.new("RGB", (4, 4)), "captions": ["one", "two", "three"]} | columns


def cached(image_id: str = "a.jpg", **columns) -> dict:
    return {
        "image_id": image_id,
        "image_pooled": [0.5, 1.0],
        "text_pooled": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    } | columns


@pytest.fixture(scope="module")
def processor() -> DualEncoderProcessor:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "one", "two", "three", "dogs"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    return DualEncoderProcessor(ViTImageProcessor(size={"height": 6, "width": 5}), fast)


def test_batch_of_images_and_captions(processor):
    rows = [row("a.jpg"), row("b.jpg", captions=["two dogs"]), row("a.jpg")]
    batch = ContrastiveCollator(processor)(rows)
    assert batch["pixel_values"].shape == (3, 3, 6, 5)
    assert batch["input_ids"].tolist() == [[2, 0], [3, 5], [2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1], [1, 0]]
    assert batch["group_ids"].dtype == torch.int64
    assert batch["group_ids"].tolist() == [group_id("a.jpg"), group_id("b.jpg"), group_id("a.jpg")]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "F"])
def test_images_of_any_mode_become_rgb(mode):
    recorder = Recorder()
    ContrastiveCollator(recorder)([row(image=Image.new(mode, (4, 4)))])
    assert [image.mode for image in recorder.inputs["images"]] == ["RGB"]


def test_cached_features_need_no_processor():
    batch = ContrastiveCollator()([cached("a.jpg"), cached("b.jpg", image_pooled=[2.0, 3.0])])
    assert batch.keys() == {"image_pooled", "text_pooled", "group_ids"}
    assert torch.equal(batch["image_pooled"], torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
    assert torch.equal(batch["text_pooled"], torch.tensor([[1.0, 2.0, 3.0]] * 2))


def test_cached_vision_features_beside_texts(processor):
    tokens = np.arange(6, dtype=np.float16).reshape(3, 2)
    rows = [row("a.jpg", image=None, vision_features=tokens), row("b.jpg", image=None, vision_features=tokens + 1)]
    batch = ContrastiveCollator(processor)(rows)
    assert batch.keys() == {"vision_features", "input_ids", "attention_mask", "group_ids"}
    assert batch["vision_features"].dtype == torch.float32
    assert batch["vision_features"].tolist() == [tokens.tolist(), (tokens + 1).tolist()]
    assert batch["input_ids"].tolist() == [[2], [2]]


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, lambda values: np.asarray(values, dtype=np.float64)])
def test_features_of_any_array_type_become_float32(convert):
    batch = ContrastiveCollator()([{name: v if name == "image_id" else convert(v) for name, v in cached().items()}])
    assert batch["image_pooled"].dtype == batch["text_pooled"].dtype == torch.float32
    assert batch["text_pooled"].tolist() == [[1.0, 2.0, 3.0]]


def test_processor_is_called_only_for_what_is_not_cached():
    recorder = Recorder()
    batch = ContrastiveCollator(recorder)([row(image_pooled=[1.0])])
    assert recorder.inputs == {"text": ["one"], "return_tensors": "pt"}
    assert batch.keys() == {"image_pooled", "input_ids", "group_ids"}
    batch = ContrastiveCollator(recorder)([row(text_pooled=[[1.0]])])
    assert recorder.inputs.keys() == {"images", "return_tensors"}
    assert batch.keys() == {"text_pooled", "pixel_values", "group_ids"}


def test_random_captions_follow_torchs_seed():
    recorder = Recorder()
    collator = ContrastiveCollator(recorder, caption="random")

    def draw(seed: int) -> list[str]:
        torch.manual_seed(seed)
        collator([row() for _ in range(60)])
        return recorder.inputs["text"]

    assert draw(0) == draw(0) != draw(1)
    assert set(draw(0)) == {"one", "two", "three"}


def test_random_features():
    torch.manual_seed(0)
    batch = ContrastiveCollator(caption="random")([cached() for _ in range(40)])
    assert set(batch["text_pooled"][:, 0].tolist()) == {1.0, 4.0}


def test_augmentation_gets_rgb_images():
    recorder = Recorder()
    seen = []

    def augment(image: Image.Image) -> Image.Image:
        seen.append(image.mode)
        return image.resize((2, 2))

    ContrastiveCollator(recorder, augmentation=augment)([row(image=Image.new("L", (4, 4)))])
    assert seen == ["RGB"]
    assert recorder.inputs["images"][0].size == (2, 2)


@pytest.mark.parametrize("rows", [[cached()], [row(vision_features=[[1.0]])]], ids=["pooled", "tokens"])
def test_augmentation_of_cached_images_is_refused(rows):
    with pytest.raises(ValueError, match="`augmentation` must be `None` if the rows have cached features"):
        ContrastiveCollator(augmentation=lambda image: image)(rows)


def test_augmentation_with_cached_texts_only():
    recorder = Recorder()
    ContrastiveCollator(recorder, augmentation=lambda image: image.resize((3, 3)))([row(text_pooled=[[1.0]])])
    assert recorder.inputs["images"][0].size == (3, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(captions=[])], r"image a\.jpg does not have a caption"),
        ([row(captions=["one", " "])], r"image a\.jpg has \['one', ' '\]"),
        ([row(captions=[None])], r"image a\.jpg has \[None\]"),
        ([row(captions="one")], r"image a\.jpg must be a list of strings, but got the string 'one'"),
        ([row(), row(captions=None)], "must have 'captions', but got 1 of 2 rows"),
        ([row(), cached()], "must have 'image_pooled', but got 1 of 2 rows"),
        ([row(captions=None)], "The rows must have the column 'captions'"),
        (
            [{"image_id": "a", "captions": ["one"]}],
            r"column 'image', but got \['captions', 'image_id'\].*remove_unused",
        ),
        ([{"image": None, "captions": ["one"]}], "The rows must have the column 'image_id'"),
        ([cached(text_pooled=[])], r"image a\.jpg does not have a caption"),
        ([row(vision_features=[[1.0]]), row()], "must have 'vision_features', but got 1 of 2 rows"),
        ([cached(vision_features=[[1.0]])], "'image_pooled' or 'vision_features', but got both"),
    ],
)
def test_unusable_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveCollator(Recorder())(rows)


@pytest.mark.parametrize(
    ("columns", "needed"),
    [({}, "images and text"), ({"image_pooled": [1.0]}, "text"), ({"text_pooled": [[1.0]]}, "images")],
)
def test_missing_processor(columns, needed):
    with pytest.raises(ValueError, match=rf"rows without cached features of {needed}\. Pass the processor"):
        ContrastiveCollator()([row(**columns)])


def test_unknown_caption_option():
    with pytest.raises(ValueError, match=r"`caption` must be one of 'first', 'random', but got 'last'."):
        ContrastiveCollator(caption="last")


def test_group_ids_fit_63_bits_and_differ():
    ids = [group_id(f"{number}.jpg") for number in range(1000)]
    assert len(set(ids)) == 1000
    assert 2**62 < max(ids) < 2**63
    assert min(ids) >= 0


def test_group_id_needs_a_string():
    with pytest.raises(TypeError, match="`image_id` must be a string, but got 7 of type int"):
        group_id(7)
