import pytest
import torch
from tests import tiny
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

from vlmkit import PairedCifarAligner, PairedCifarAlignerProcessor
from vlmkit.training import SaveProcessorCallback


@pytest.fixture
def folder(tmp_path):
    """A run of three steps, saved after each second one and at the end."""
    model = PairedCifarAligner(tiny.paired_cifar_config())
    tiny.build_caption_bank(model)
    inputs = tiny.paired_cifar_inputs()
    rows = [{name: values[row] for name, values in inputs.items()} for row in range(3)]
    arguments = TrainingArguments(
        tmp_path, max_steps=3, save_steps=2, report_to="none", disable_tqdm=True, use_cpu=True, save_total_limit=2
    )
    callbacks = [SaveProcessorCallback(tiny.paired_cifar_processor())]
    Trainer(model, arguments, train_dataset=rows, callbacks=callbacks).train()
    return tmp_path


def test_the_run_and_its_checkpoints_hold_the_processor(folder):
    places = [folder, *sorted(folder.glob("checkpoint-*"))]
    assert [place.name for place in places[1:]] == ["checkpoint-2", "checkpoint-3"]
    images = [[tiny.photo(), tiny.photo(seed=1)]]
    expected = tiny.paired_cifar_processor()(images=images, return_tensors="pt")
    for place in places:
        processor = AutoProcessor.from_pretrained(place)
        assert type(processor) is PairedCifarAlignerProcessor
        torch.testing.assert_close(dict(processor(images=images, return_tensors="pt")), dict(expected))


def test_a_checkpoint_is_all_that_is_needed_to_predict(folder):
    model, processor = (auto.from_pretrained(folder / "checkpoint-3") for auto in (AutoModel, AutoProcessor))
    inputs = processor(images=[[tiny.photo(), tiny.photo(seed=1)]], return_tensors="pt")
    [[best]] = model.predict_captions(**inputs, k=1)
    assert best.caption in model.captions
