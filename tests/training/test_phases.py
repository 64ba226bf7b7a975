from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests import tiny
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from vlmkit.training import check_phases, parse_arguments, parse_phases, phase_status


@dataclass
class Model:
    width: int = 8
    rate: float = 0.1
    frozen: bool = True
    sizes: list[int] = field(default_factory=lambda: [1])
    limit: int | None = None


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def parse(*arguments: object, **defaults: object) -> list[Model]:
    return [model for (model,) in parse_phases(Model, arguments=list(map(str, arguments)), defaults=defaults)]


def test_a_phase_overrides_the_rest_of_the_file(tmp_path):
    path = write(
        tmp_path, "width: 16\nsizes: [2, 3]\nphases:\n- rate: 0.5\n- {width: 4, frozen: false, sizes: [7]}\n- {}"
    )
    assert parse(path) == [
        Model(width=16, sizes=[2, 3], rate=0.5),
        Model(width=4, sizes=[7], frozen=False),
        Model(width=16, sizes=[2, 3]),
    ]


def test_flags_win_in_every_phase_and_defaults_in_none(tmp_path):
    path = write(tmp_path, "width: 16\nphases:\n- rate: 0.5\n- {width: 4, limit: 2}")
    models = parse(path, "--width", 32, "--rate", 0.25, rate=0.75, limit=9, frozen=False)
    assert models == [
        Model(width=32, rate=0.25, limit=9, frozen=False),
        Model(width=32, rate=0.25, limit=2, frozen=False),
    ]


def test_null_in_a_phase_is_the_dataclasss_own_default(tmp_path):
    assert parse(write(tmp_path, "limit: 3\nwidth: 5\nphases: [{limit: null}, {width: null}]"), width=9) == [
        Model(width=5),
        Model(limit=3),
    ]


@pytest.mark.parametrize("arguments", [[], ["--width", "3"], ["recipe.yaml"], ["recipe.yaml", "--rate", "2"]])
def test_without_phases_all_is_one_phase(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "width: 16")
    assert parse_phases(Model, arguments=arguments) == [parse_arguments(Model, arguments=arguments)]


def test_the_words_are_those_of_the_process_unless_given(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", write(tmp_path, "phases: [{width: 1}, {width: 2}]"), "--rate", "2"])
    assert parse_phases(Model) == [(Model(width=1, rate=2.0),), (Model(width=2, rate=2.0),)]


@pytest.mark.parametrize("flags", [[], ["--output_dir", "elsewhere"], ["--output_dir=elsewhere"]])
def test_several_phases_have_folders_of_their_own(tmp_path, flags):
    path = write(tmp_path, "output_dir: runs\nphases: [{learning_rate: 0.5}, {width: 2, max_steps: 3}]")
    phases = parse_phases(Model, TrainingArguments, arguments=[path, *flags])
    folder = Path("elsewhere" if flags else "runs")
    assert [Path(training_args.output_dir) for _, training_args in phases] == [folder / "phase_1", folder / "phase_2"]
    assert [training_args.learning_rate for _, training_args in phases] == [0.5, 5e-5]
    assert [training_args.max_steps for _, training_args in phases] == [-1, 3]
    assert [model.width for model, _ in phases] == [8, 2]


@pytest.mark.parametrize("text", ["output_dir: runs", "output_dir: runs\nphases: [{width: 2}]"])
def test_a_single_phase_keeps_the_folder(tmp_path, text):
    [(_, training_args)] = parse_phases(Model, TrainingArguments, arguments=[write(tmp_path, text)])
    assert training_args.output_dir == "runs"


@pytest.mark.parametrize("phases", ["[]", "null", "{width: 3}", "3", "[3]", "[{width: 3}, null]", "[[{width: 3}]]"])
def test_phases_are_a_list_of_mappings(tmp_path, phases):
    with pytest.raises(
        ValueError, match=r"`phases` must be a list with a mapping of settings for each phase, but got "
    ):
        parse(write(tmp_path, f"width: 2\nphases: {phases}"))


@pytest.mark.parametrize("text", ["wdith: 3", "phases: [{width: 3}, {wdith: 3}]"])
def test_an_unknown_setting(tmp_path, text):
    with pytest.raises(ValueError, match=r"The setting 'wdith' is unknown. Did you mean 'width'\?"):
        parse(write(tmp_path, text))


def test_phases_do_not_nest(tmp_path):
    with pytest.raises(ValueError, match="The setting 'phases' is unknown"):
        parse(write(tmp_path, "phases: [{phases: [{width: 3}]}]"))


def test_a_script_without_phases_refuses_them(tmp_path):
    with pytest.raises(ValueError, match="The setting 'phases' is unknown"):
        parse_arguments(Model, arguments=[write(tmp_path, "phases: [{width: 3}]")])


def test_progress_of_a_phase(tmp_path):
    folder = tmp_path / "phase_1"
    assert phase_status(folder) == (False, None)
    folder.mkdir()
    assert phase_status(folder) == (False, None)
    for step in (9, 10):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}/trainer_state.json").touch()
    (folder / "checkpoint-11").mkdir()  # the process was killed while it wrote it
    assert phase_status(str(folder)) == (False, str(folder / "checkpoint-10"))
    trainer = Trainer(GPT2LMHeadModel(tiny.text_config()), TrainingArguments(folder, report_to="none"))
    trainer.save_metrics("train", {"train_loss": 1.0})
    assert phase_status(folder) == (True, str(folder / "checkpoint-10"))


@pytest.mark.parametrize("file", ["train_results.json", "checkpoint-3/trainer_state.json"])
def test_phases_that_have_begun_are_not_begun_anew(tmp_path, file):
    folders = [tmp_path / f"phase_{number}" for number in (1, 2)]
    assert check_phases(folders, resume=False) == [(False, None), (False, None)]
    (folders[0] / file).parent.mkdir(parents=True)
    (folders[0] / file).touch()
    with pytest.raises(ValueError, match=r"phase_1 already contains a run. Pass `--resume`, or another `--output_dir`"):
        check_phases(folders, resume=False)
    assert check_phases([str(folder) for folder in folders], resume=True) == [
        phase_status(folder) for folder in folders
    ]
