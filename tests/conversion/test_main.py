"""The converters' command line."""

import inspect
import runpy

import pytest
from tests.conversion import dual_encoder_original, multimodel_original, qformer_vlm_original

from vlmkit import (
    DualEncoderModel,
    DualEncoderProcessor,
    QFormerCaptioner,
    QFormerCaptionerProcessor,
    SmolVLM,
    VlmkitSmolVLMProcessor,
)
from vlmkit.conversion import convert_dual_encoder, convert_multimodel, convert_qformer_vlm


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return dual_encoder_original.write(tmp_path_factory.mktemp("original"))


@pytest.fixture
def run(monkeypatch):
    """Runs `python -m vlmkit.conversion` in this process."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["vlmkit.conversion", *map(str, arguments)])
        runpy.run_module("vlmkit.conversion", run_name="__main__")

    return run


def command(name, **options):
    return [name, *(part for option, value in options.items() for part in (f"--{option}", value))]


def converted(run, arguments, destination, capsys):
    """What the printed code loads, after a check of the rest."""
    run(*arguments)
    said, _, code = capsys.readouterr().out.partition("\n\n")
    loaded = {}
    exec(code, loaded)
    model, processor = loaded["model"], loaded.get("processor")
    assert f"Wrote a {type(model).__name__}{' and its processor' if processor else ''} to {destination}" in said
    return model, processor


def test_converts_a_dual_encoder_and_tells_how_to_load(run, source, tmp_path, capsys):
    destination = tmp_path / "converted"
    arguments = command("dual-encoder", destination=destination, **source)
    model, processor = converted(run, arguments, destination, capsys)
    assert isinstance(model, DualEncoderModel)
    assert isinstance(processor, DualEncoderProcessor)


def test_converts_multimodel_and_tells_how_to_load(run, tmp_path, capsys):
    destination = tmp_path / "converted"
    arguments = command("multimodel", destination=destination, **multimodel_original.write(tmp_path))
    model, processor = converted(run, arguments, destination, capsys)
    assert isinstance(model, QFormerCaptioner)
    assert isinstance(processor, QFormerCaptionerProcessor)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_converts_vlm_training_and_tells_how_to_load(run, tmp_path, capsys, has_tokenizer):
    options = qformer_vlm_original.write(tmp_path)
    if has_tokenizer:
        qformer_vlm_original.tokenizer().save_pretrained(options["base_model"])
        options["vision_model"] = qformer_vlm_original.write_vision_model(tmp_path / "vit")
    destination = tmp_path / "converted"
    model, processor = converted(run, command("qformer-vlm", destination=destination, **options), destination, capsys)
    assert isinstance(model, SmolVLM)
    assert isinstance(processor, VlmkitSmolVLMProcessor if has_tokenizer else type(None))


def test_prints_errors_without_a_traceback(run, source, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as exit_info:
        run(*command("dual-encoder", destination=tmp_path, **source))
    assert exit_info.value.code == 1
    assert f"must be a new or empty folder, but {tmp_path} already exists" in capsys.readouterr().err


@pytest.mark.parametrize("convert", [convert_dual_encoder, convert_multimodel, convert_qformer_vlm])
def test_only_source_and_destination_may_be_positional(convert):
    kinds = [parameter.kind for parameter in inspect.signature(convert).parameters.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "command"),
        (["dual-encoder"], "--projection_file"),
        (["multimodel"], "--source"),
        (["qformer-vlm"], "--base_model"),
        (["x"], "dual-encoder"),
    ],
)
def test_names_what_is_missing(run, capsys, arguments, named):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert named in capsys.readouterr().err
