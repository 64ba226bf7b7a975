import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlmkit.metrics import caption_metrics, ptb

GOLDEN = Path(__file__).parents[1] / "golden/coco_captions.json"
PREDICTED, WANTED = [["a", "dog"], ["a", "cat"]], [[["a", "dog", "runs"]], [["the", "cat"], ["one", "cat"]]]

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")


@pytest.fixture
def installed():
    pytest.importorskip("pycocoevalcap", reason="the extra vlmkit[ptb] is not installed")


@pytest.fixture
def spice_models(installed, monkeypatch, tmp_path):
    """Stand-ins for METEOR, which takes seconds to start, and for the models of SPICE."""
    from pycocoevalcap.meteor import meteor
    from pycocoevalcap.spice import spice

    class Meteor:
        def compute_score(self, wanted, predicted):
            assert predicted == {0: ["a dog"], 1: ["a cat"]}
            assert wanted == {0: ["a dog runs"], 1: ["the cat", "one cat"]}
            return 0.25, [0.25, 0.25]

    monkeypatch.setattr(meteor, "Meteor", Meteor)
    monkeypatch.setattr(spice, "__file__", str(tmp_path / "spice.py"))
    models = tmp_path / "lib/stanford-corenlp-3.6.0-models.jar"
    models.parent.mkdir()
    models.touch()
    return models


def replace_spice(monkeypatch, compute_score):
    from pycocoevalcap.spice import spice

    stand_in = type("Spice", (), {"compute_score": staticmethod(compute_score)})
    monkeypatch.setattr(spice, "Spice", stand_in)


@needs_java
@pytest.mark.filterwarnings("ignore:SPICE is not computed:UserWarning")
def test_scores_are_those_of_pycocoevalcap(installed):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    metrics = caption_metrics(golden["predictions"], golden["references"], tokenizer="ptb")
    metrics.pop("spice", None)
    assert metrics == pytest.approx(golden["scores"], rel=1e-9)


@needs_java
def test_one_caption_gives_one_list_of_words(installed):
    captions = ["", "A dog's bone.\u2028\r\n(Red)", " ", "two", ""]
    assert ptb.tokenize(captions) == [[], ["a", "dog", "'s", "bone", "-lrb-", "red", "-rrb-"], [], ["two"], []]


def test_spice_is_there_with_its_models(spice_models, monkeypatch):
    replace_spice(monkeypatch, lambda wanted, predicted: (0.125, []))
    assert ptb.java_metrics(PREDICTED, WANTED) == {"meteor": 0.25, "spice": 0.125}


def test_spice_is_left_out_without_its_models(spice_models):
    spice_models.unlink()
    with pytest.warns(
        UserWarning, match=r"SPICE is not computed, .*models.jar is missing. Run `python -m pycocoevalcap"
    ):
        assert ptb.java_metrics(PREDICTED, WANTED) == {"meteor": 0.25}


def test_spice_is_left_out_if_its_program_fails(spice_models, monkeypatch):
    def fail(wanted, predicted):
        raise subprocess.CalledProcessError(1, "java")

    replace_spice(monkeypatch, fail)
    with pytest.warns(UserWarning, match=r"SPICE is not computed, .* written for Java 8, failed: .* status 1"):
        assert ptb.java_metrics(PREDICTED, WANTED) == {"meteor": 0.25}


def test_missing_java_is_named(installed, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"`tokenizer='ptb'` runs Java programs, but `java` was not found on"):
        caption_metrics(["a", "b"], [["a"], ["b"]], tokenizer="ptb")


def test_missing_pycocoevalcap_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=r"`tokenizer='ptb'` needs pycocoevalcap"):
        caption_metrics(["a", "b"], [["a"], ["b"]], tokenizer="ptb")
