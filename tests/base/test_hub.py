"""Pushing to a hub and loading back by name, against a hub on loopback."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from tests import tiny
from tests.hub_client import DATA, METRICS
from tests.local_hub import LocalHub
from tests.subprocesses import ROOT, run_python

from vlmkit import DualEncoderModel


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as server:
        yield server


@pytest.fixture(scope="module")
def environment(hub, tmp_path_factory) -> dict[str, str]:
    home = str(tmp_path_factory.mktemp("home"))
    offline = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_dummy", "HF_HOME": home, **offline}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def results(environment, work) -> dict:
    return json.loads(run_python(ROOT / "tests/hub_client.py", work, **environment).splitlines()[-1])


def test_pushed_model_and_processor_load_back_by_name(hub, results):
    files = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "vlmkit_shim.py"}
    assert files <= hub.repositories["me/tiny"].keys()
    before, after = results["push"]["processor"]
    assert before == after
    for name in ("loss", "zero-shot"):
        before, after = results["push"][name]
        assert after == pytest.approx(before, rel=1e-6), name  # the same numbers, in memory that is aligned otherwise


def test_an_aligner_loads_back_with_its_caption_bank(hub, results):
    before, after = ([caption for pair in pairs for caption in pair] for pairs in results["pairs"]["captions"])
    assert [caption[:-1] for caption in before] == [caption[:-1] for caption in after]
    # Equal up to rounding, which depends on the alignment of the weights in memory.
    assert [caption[-1] for caption in after] == pytest.approx([caption[-1] for caption in before], rel=1e-6)
    assert {"config.json", "model.safetensors", "processor_config.json"} <= hub.repositories["me/pairs"].keys()
    card = ModelCard(hub.repositories["me/pairs"]["README.md"].decode())
    assert card.data.pipeline_tag is None
    assert 'AutoModel.from_pretrained("me/pairs")' in card.text
    assert "predict_captions" in card.text


def test_saving_with_push_to_hub_uploads_the_shim_too(hub, results):
    before, after = results["save"]["loss"]
    assert before == after
    for name in ("me/saved", "me/processor"):
        assert b"from vlmkit import" in hub.repositories[name]["vlmkit_shim.py"]


def test_a_run_of_the_trainer_pushes_all_that_loading_needs(hub, results):
    before, after = results["train"]["loss"]
    assert before == after
    assert {"model.safetensors", "processor_config.json", "vlmkit_shim.py"} <= hub.repositories["me/trained"].keys()


def test_a_stranger_loads_by_name_with_trust(environment, results, work):
    job = {"source": "me/tiny", "inputs": str(work / "inputs.pt"), "target": str(work / "target")}
    stranger = run_python(
        ROOT / "tests/stranger.py", json.dumps([job]), **{**environment, "HF_HOME": str(work / "home")}
    )
    assert json.loads(stranger)[0]["model"] == "DualEncoderModel"
    assert torch.load(work / "target" / "loss.pt").item() == results["push"]["loss"][0]


def test_the_card_tells_how_to_use_the_model_and_what_it_was_trained_on(hub, results):
    card = ModelCard(hub.repositories["me/tiny"]["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert "vlmkit" in card.data.tags
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("text_to_image/recall@1", 0.1235)
    assert result.dataset_name == DATA
    for text in ("# me/tiny", "pip install vlmkit", 'model="me/tiny"', DATA, *METRICS, "`text_features`"):
        assert text in card.text


def test_a_card_edited_on_the_hub_is_kept(hub, results):
    card = hub.repositories["me/edited"]["README.md"].decode()
    assert card.endswith("Written by hand.")
    assert "# me/edited" in card


def test_a_saved_folder_has_a_card_and_keeps_the_one_it_has(tmp_path):
    model = DualEncoderModel(tiny.dual_encoder_config())
    model.save_pretrained(tmp_path / "mine")
    card = tmp_path / "mine/README.md"
    assert "# mine" in card.read_text()
    assert "Not recorded." in card.read_text()
    assert ModelCard(card.read_text()).data.eval_results is None

    card.write_text("Written by hand.")
    model.save_pretrained(tmp_path / "mine")
    assert card.read_text() == "Written by hand."

    model.describe(data="Holiday photographs.")
    model.save_pretrained(tmp_path / "mine")
    assert "Holiday photographs." in card.read_text()  # what is new replaces what is old


def test_a_model_saved_in_the_current_folder_is_called_after_it(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    DualEncoderModel(tiny.dual_encoder_config()).save_pretrained(".")
    assert "\n# mine\n" in Path("README.md").read_text()


def test_only_the_main_process_writes_card_and_shim(tmp_path):
    DualEncoderModel(tiny.dual_encoder_config()).save_pretrained(tmp_path, is_main_process=False)
    tiny.dual_encoder_config().save_pretrained(tmp_path, is_main_process=False)
    assert not [path for path in tmp_path.iterdir() if path.name in ("README.md", "vlmkit_shim.py")]


def test_no_source_file_is_copied_into_a_folder(tmp_path):
    config = tiny.dual_encoder_config()
    config.register_for_auto_class()
    config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.py")] == ["vlmkit_shim.py"]
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == config.shim_map


def test_metrics_are_in_the_card_and_in_its_header(tmp_path):
    model = DualEncoderModel(tiny.dual_encoder_config())
    model.describe(metrics={"recall@1": 0.123456})
    model.save_pretrained(tmp_path / "mine")
    card = ModelCard((tmp_path / "mine/README.md").read_text())
    [result] = card.data.eval_results
    assert (card.data.model_name, result.metric_type, result.metric_value) == ("mine", "recall@1", 0.1235)
    assert result.dataset_name == "unknown"
    assert "| recall@1 | 0.1235 |" in card.text
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"| of these trained | {trained:,} |" in card.text
