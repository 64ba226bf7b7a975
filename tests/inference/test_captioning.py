import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from tests import tiny

from vlmkit import QFormerCaptioner
from vlmkit.inference import cache_vision_features, caption_table

ROWS = 5


@pytest.fixture
def table() -> Dataset:
    columns = {"image": [tiny.photo(seed=row) for row in range(ROWS)], "captions": [["a red dog"]] * ROWS}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "captions": List(Value("string"))}))


@pytest.fixture
def model() -> QFormerCaptioner:
    """Large weights, or all images get the same caption."""
    torch.manual_seed(0)
    model = QFormerCaptioner(tiny.qformer_captioner_config(dropout=0.5)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 if "vision_tower" not in name else 0.5)
    return model


@pytest.fixture
def processor():
    return tiny.qformer_captioner_processor()


def test_a_caption_per_row_as_generate_writes_it(table, model, processor):
    captions = caption_table(model, processor, table, max_new_tokens=8, do_sample=False)
    expected = []
    for image in table["image"]:
        written = model.generate(**processor(images=image, text="", return_tensors="pt"), max_new_tokens=8)
        expected.append(processor.decode(written[0], skip_special_tokens=True).strip())
    assert captions == expected
    assert len(set(captions)) > 1


@pytest.mark.parametrize("batch_size", [1, 2, ROWS, 99])
def test_the_size_of_batches_changes_nothing(table, model, processor, batch_size):
    whole = caption_table(model, processor, table, max_new_tokens=6, num_beams=2)
    assert caption_table(model, processor, table, batch_size=batch_size, max_new_tokens=6, num_beams=2) == whole


def test_a_prompt_begins_every_caption(table, model, processor):
    captions = caption_table(model, processor, table, prompt="this is", max_new_tokens=3)
    assert all(caption.startswith("this is") for caption in captions)
    assert all(len(caption.split()) <= 5 for caption in captions)
    assert captions != caption_table(model, processor, table, max_new_tokens=3)


def test_cached_tokens_give_the_captions_of_the_images(table, model, processor, tmp_path):
    cached = cache_vision_features(model.model.vision_tower, processor, table, cache_dir=tmp_path)
    for prompt in ("", "a small"):
        images = caption_table(model, processor, table, prompt=prompt, batch_size=2, max_new_tokens=6)
        assert caption_table(model, processor, cached, prompt=prompt, batch_size=2, max_new_tokens=6) == images


def test_captions_of_people_are_not_read(table, model, processor):
    bare = table.remove_columns("captions")
    assert caption_table(model, processor, bare, max_new_tokens=4) == caption_table(
        model, processor, table, max_new_tokens=4
    )


def test_the_models_mode_is_kept_and_dropout_is_off(table, model, processor):
    expected = caption_table(model, processor, table, max_new_tokens=6)
    model.train()
    assert caption_table(model, processor, table, max_new_tokens=6) == expected
    assert model.training
    assert model.model.connector.training
    assert not model.model.vision_tower.training  # frozen
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="max_new_tokenz"):
        caption_table(model, processor, table, max_new_tokenz=6)
    assert model.training


def test_tokens_of_a_plain_table(table, model, processor, tmp_path):
    """Without torch's format, as after reading them from a file of one's own."""
    cached = cache_vision_features(model.model.vision_tower, processor, table, cache_dir=tmp_path)
    expected = caption_table(model, processor, cached, max_new_tokens=4)
    assert caption_table(model, processor, cached.with_format(None), max_new_tokens=4) == expected


def test_several_captions_of_a_row_are_refused(table, model, processor):
    with pytest.raises(ValueError, match="`num_return_sequences` must be 1, but got 2"):
        caption_table(model, processor, table, num_return_sequences=2, num_beams=2)


def test_special_tokens_do_not_show(table, model, processor):
    captions = caption_table(model, processor, table, max_new_tokens=12)
    assert not any("<" in caption for caption in captions)
    assert captions == [caption.strip() for caption in captions]


def test_an_empty_table_has_no_captions(table, model, processor):
    assert caption_table(model, processor, table.select([])) == []


def test_a_table_without_images(table, model, processor):
    with pytest.raises(ValueError, match=r"the column 'image' or 'vision_features', but got \['captions'\]"):
        caption_table(model, processor, table.remove_columns("image"))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_that_is_none(table, model, processor, batch_size):
    with pytest.raises(ValueError, match=f"`batch_size` must be at least 1, but got {batch_size}"):
        caption_table(model, processor, table, batch_size=batch_size)
