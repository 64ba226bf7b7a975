"""The converters' command line."""

import runpy

import pytest
from tests.conversion import dual_encoder_original

from vlmkit import DualEncoderModel, DualEncoderProcessor


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


def dual_encoder_arguments(source, destination):
    options = {**source, "destination": destination}
    return ["dual-encoder", *(part for name, value in options.items() for part in (f"--{name}", value))]


def test_converts_and_tells_how_to_load(run, source, tmp_path, capsys):
    destination = tmp_path / "converted"
    run(*dual_encoder_arguments(source, destination))
    said, _, code = capsys.readouterr().out.partition("\n\n")
    assert f"Wrote a DualEncoderModel and its processor to {destination}" in said
    loaded = {}
    exec(code, loaded)
    assert isinstance(loaded["model"], DualEncoderModel)
    assert isinstance(loaded["processor"], DualEncoderProcessor)


def test_prints_errors_without_a_traceback(run, source, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as exit_info:
        run(*dual_encoder_arguments(source, tmp_path))
    assert exit_info.value.code == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path} exists and is no empty folder")


@pytest.mark.parametrize(
    ("arguments", "named"), [([], "command"), (["dual-encoder"], "--projection_file"), (["x"], "dual-encoder")]
)
def test_names_what_is_missing(run, capsys, arguments, named):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert named in capsys.readouterr().err
