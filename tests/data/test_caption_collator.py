import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tests import tiny
from tests.data.test_contrastive_collator import Recorder
from torch.utils.data import DataLoader

from vlmkit.data import CaptionCollator, CaptionPairs, load_scenes

TOKENS = np.arange(6, dtype=np.float16).reshape(3, 2)


def row(image_id: str = "a.jpg", **columns) -> dict:
    captions = ["a red circle", "the dog", "this is a photo"]
    return {"image_id": image_id, "image": Image.new("RGB", (40, 48)), "captions": captions} | columns


def test_batch_of_images_and_captions():
    processor = tiny.qformer_captioner_processor()
    batch = CaptionCollator(processor)([row(), row("b.jpg", captions=["a cat"])])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    expected = processor(text=["a red circle", "a cat"], return_labels=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(batch[name], expected[name])
    assert batch["input_ids"][0, 0] == processor.tokenizer.bos_token_id
    assert batch["input_ids"][0, -1] == processor.tokenizer.eos_token_id
    assert batch["labels"][1, -2:].tolist() == [processor.tokenizer.eos_token_id, -100]


def test_cached_tokens_take_the_place_of_images():
    batch = CaptionCollator(tiny.qformer_captioner_processor())(
        [row(vision_features=TOKENS), row(vision_features=TOKENS + 1)]
    )
    assert batch.keys() == {"input_ids", "attention_mask", "labels", "vision_features"}
    assert batch["vision_features"].dtype == torch.float32
    assert torch.equal(batch["vision_features"], torch.tensor(np.stack([TOKENS, TOKENS + 1])).float())


def test_calls_of_the_processor():
    recorder = Recorder()
    CaptionCollator(recorder)([row(vision_features=TOKENS)])
    assert recorder.inputs == {"text": ["a red circle"], "return_labels": True, "return_tensors": "pt"}
    CaptionCollator(recorder)([row()])
    assert recorder.inputs.keys() == {"text", "images", "return_labels", "return_tensors"}


def test_random_captions_follow_torchs_seed():
    recorder = Recorder()
    collator = CaptionCollator(recorder, caption="random")

    def draw(seed: int) -> list[str]:
        torch.manual_seed(seed)
        collator([row() for _ in range(60)])
        return recorder.inputs["text"]

    assert draw(0) == draw(0) != draw(1)
    assert set(draw(0)) == set(row()["captions"])


def test_augmentation_gets_rgb_images():
    recorder = Recorder()
    CaptionCollator(recorder, augmentation=lambda image: image.resize((2, 2)))([row(image=Image.new("LA", (4, 4)))])
    assert [(image.mode, image.size) for image in recorder.inputs["images"]] == [("RGB", (2, 2))]


def test_augmentation_of_cached_tokens_is_refused():
    with pytest.raises(ValueError, match="`augmentation` must be `None` if the rows have cached features"):
        CaptionCollator(Recorder(), augmentation=lambda image: image)([row(vision_features=TOKENS)])


def test_pairs_train_on_every_caption():
    pairs = CaptionPairs(load_scenes(num_train=3, num_validation=1, num_test=1)["train"])
    recorder = Recorder()
    for _ in DataLoader(pairs, batch_size=4, collate_fn=CaptionCollator(recorder, caption="random")):
        assert len(recorder.inputs["text"]) == len(recorder.inputs["images"])
    assert recorder.inputs["text"] == [pairs[row]["captions"][0] for row in range(12, 15)]


def test_pairs_of_cached_tokens():
    columns = {
        "image_id": ["a", "b"],
        "captions": [["a dog", "a cat"], ["a tree"]],
        "vision_features": [TOKENS, TOKENS + 1],
    }
    table = Dataset.from_dict(columns).with_format("torch", columns=["vision_features"], output_all_columns=True)
    pairs = CaptionPairs(table)
    batch = CaptionCollator(tiny.qformer_captioner_processor())([pairs[1], pairs[2]])
    assert batch["vision_features"].tolist() == [TOKENS.tolist(), (TOKENS + 1).tolist()]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(captions=[])], r"image a\.jpg does not have a caption"),
        ([row(captions=["one", " "])], r"image a\.jpg has \['one', ' '\]"),
        ([row(captions="one")], r"image a\.jpg must be a list of strings, but got the string 'one'"),
        ([row(), row(captions=None)], "must have 'captions', but got 1 of 2 rows"),
        ([row(), row(vision_features=TOKENS)], "must have 'vision_features', but got 1 of 2 rows"),
        ([row(captions=None)], "The rows must have the column 'captions'.*remove_unused_columns=False"),
        ([row(image=None)], "The rows must have the column 'image'"),
        ([row(image_id=None)], "The rows must have the column 'image_id'"),
    ],
)
def test_unusable_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        CaptionCollator(Recorder())(rows)


def test_unknown_caption_option():
    with pytest.raises(ValueError, match=r"`caption` must be one of 'first', 'random', but got 'last'."):
        CaptionCollator(Recorder(), caption="last")
