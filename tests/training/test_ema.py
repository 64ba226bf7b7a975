import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from torch import Tensor
from transformers import AutoModel, TimmWrapperConfig, Trainer, TrainerCallback, TrainingArguments, set_seed

from vlmkit import PairedCifarAligner
from vlmkit.training import EmaCallback

DECAY = 0.7
CNN = TimmWrapperConfig(architecture="resnet10t", model_args={"channels": (8, 8, 8, 8), "stem_width": 8})

Weights = dict[str, Tensor]


class Record(TrainerCallback):
    """The weights that training has after each update."""

    def __init__(self):
        self.weights: list[Weights] = []

    def on_optimizer_step(self, args, state, control, model, **kwargs):
        self.weights.append(copy_of(model))


class Killed(BaseException):
    """Not an error that anything handles."""


class KillAt(TrainerCallback):
    """Stops a run at once at an event after an update, of which the callbacks behind it hear nothing."""

    def __init__(self, event: str, step: int):
        self.step = step
        setattr(self, event, self.stop)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


class StopAfter(TrainerCallback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


def copy_of(model: torch.nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def rows(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 16, 32, generator=generator)
    ids = torch.randint(9, (count,), generator=generator)
    return [{"pixel_values": image, "caption_ids": number} for image, number in zip(images, ids, strict=True)]


def make_trainer(folder: Path, *callbacks: TrainerCallback, vision_config=None, **arguments) -> Trainer:
    """Three updates in each of two epochs."""
    set_seed(0)
    vision = vision_config or tiny.vision_config(image_size=(16, 32), patch_size=8)
    model = PairedCifarAligner(tiny.paired_cifar_config(loss="full_bank", vision_config=vision))
    tiny.build_caption_bank(model)
    options = {"num_train_epochs": 2, "save_strategy": "no", "learning_rate": 0.02, **arguments}
    training_args = TrainingArguments(
        folder,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        label_names=["caption_ids"],
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **options,
    )
    return Trainer(
        model, training_args, train_dataset=rows(12), eval_dataset=rows(8, seed=1), callbacks=list(callbacks)
    )


def train(folder: Path, *callbacks: TrainerCallback, **arguments) -> Trainer:
    trainer = make_trainer(folder, *callbacks, **arguments)
    trainer.train()
    return trainer


def averages(weights: list[Weights], decay: float = DECAY) -> list[Weights]:
    """After each update, by hand; it starts from the first one."""
    average = weights[0]
    found = [average]
    for new in weights[1:]:
        average = {name: decay * average[name] + (1 - decay) * new[name] for name in new}
        found.append(average)
    return found


def loss_with(weights: Weights) -> float:
    """The loss on the evaluation set."""
    trainer = make_trainer("unused")
    trainer.model.load_state_dict(weights, strict=False)
    return trainer.evaluate()["eval_loss"]


def losses(trainer: Trainer) -> list[float]:
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]


def assert_close(actual: Weights, expected: Weights, exact: bool = False) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, **tolerance, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> list[Weights]:
    """The weights of a run without averaging."""
    record = Record()
    train(tmp_path_factory.mktemp("plain"), record)
    assert len(record.weights) == 6
    assert max((record.weights[0][name] - tensor).abs().max() for name, tensor in record.weights[5].items()) > 0.01
    return record.weights


def test_after_training_the_model_holds_the_average(plain, tmp_path):
    trainer = train(tmp_path, EmaCallback(DECAY))
    assert_close(copy_of(trainer.model), averages(plain)[-1])


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_training_goes_on_with_the_weights_and_evaluation_uses_the_average(plain, tmp_path, strategy):
    record = Record()
    arguments = {"eval_strategy": strategy, "eval_steps": 2} | {"save_strategy": strategy, "save_steps": 2}
    trainer = train(tmp_path, EmaCallback(DECAY), record, **arguments)
    for actual, expected in zip(record.weights, plain, strict=True):
        assert_close(actual, expected, exact=True)
    steps = [2, 4, 6] if strategy == "steps" else [3, 6]
    by_hand = averages(plain)
    assert losses(trainer) == pytest.approx([loss_with(by_hand[step - 1]) for step in steps], rel=1e-5)
    assert losses(trainer)[0] != pytest.approx(loss_with(plain[steps[0] - 1]), rel=1e-4)


def test_checkpoints_hold_the_average_and_beside_it_the_weights(plain, tmp_path):
    train(tmp_path, EmaCallback(DECAY), save_strategy="steps", save_steps=2)
    for step in (2, 4, 6):
        checkpoint = tmp_path / f"checkpoint-{step}"
        assert_close(copy_of(AutoModel.from_pretrained(checkpoint)), averages(plain)[step - 1])
        assert_close(load_file(checkpoint / "unaveraged.safetensors"), plain[step - 1], exact=True)


def test_buffers_are_the_models_own(tmp_path):
    ours, theirs = (
        train(tmp_path, *callbacks, vision_config=CNN, eval_strategy="epoch")
        for callbacks in ([EmaCallback(DECAY)], [])
    )
    statistics = {name: buffer for name, buffer in theirs.model.named_buffers() if "running" in name}
    assert statistics
    assert_close(dict(ours.model.named_buffers()), statistics, exact=True)
    assert not torch.equal(next(ours.model.parameters()), next(theirs.model.parameters()))


@pytest.mark.parametrize("killed_after", [2, 3, 5])
def test_a_killed_run_ends_where_the_uninterrupted_one_does(tmp_path, killed_after):
    arguments = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    whole = train(tmp_path / "whole", EmaCallback(DECAY), **arguments)
    killed = train(tmp_path / "parts", StopAfter(killed_after), EmaCallback(DECAY), **arguments)
    assert killed.state.global_step == killed_after
    resumed = make_trainer(tmp_path / "parts", EmaCallback(DECAY), **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_close(copy_of(resumed.model), copy_of(whole.model), exact=True)
    assert losses(resumed) == losses(whole)
    weights = [
        load_file(folder / "checkpoint-6/unaveraged.safetensors") for folder in (tmp_path / "parts", tmp_path / "whole")
    ]
    assert_close(*weights, exact=True)


class EveryEvaluationIsTheBest(TrainerCallback):
    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_loss"] = -float(state.global_step)


BY_STEPS = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
BY_EPOCH = {"save_strategy": "epoch", "eval_strategy": "epoch"}
IF_BEST = {**BY_STEPS, "save_strategy": "best", "metric_for_best_model": "eval_loss"}


@pytest.mark.parametrize(
    ("arguments", "event", "step", "newest"),
    [
        (BY_STEPS, "on_save", 4, 4),
        (BY_STEPS, "on_save", 6, 6),
        (BY_STEPS, "on_evaluate", 4, 2),
        (BY_EPOCH, "on_save", 3, 3),
        (BY_EPOCH, "on_evaluate", 6, 3),
        (IF_BEST, "on_save", 4, 4),
        (IF_BEST, "on_evaluate", 4, 2),
    ],
)
def test_a_run_that_is_killed_around_a_checkpoint_goes_on_exactly(tmp_path, arguments, event, step, newest):
    """Even where Trainer has deleted all checkpoints but the one that it has just written."""
    arguments = {**arguments, "save_total_limit": 1}
    whole = train(tmp_path / "whole", EveryEvaluationIsTheBest(), EmaCallback(DECAY), **arguments)
    with pytest.raises(Killed):
        train(tmp_path / "parts", KillAt(event, step), EveryEvaluationIsTheBest(), EmaCallback(DECAY), **arguments)
    assert [path.name for path in (tmp_path / "parts").iterdir() if path.is_dir()] == [f"checkpoint-{newest}"]
    resumed = make_trainer(tmp_path / "parts", EveryEvaluationIsTheBest(), EmaCallback(DECAY), **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert_close(copy_of(resumed.model), copy_of(whole.model), exact=True)
    for folder in (tmp_path / "parts", tmp_path / "whole"):
        assert [str(path.relative_to(folder)) for path in folder.rglob("*unaveraged*")] == [
            "checkpoint-6/unaveraged.safetensors"
        ]


def test_an_evaluation_that_is_not_the_best_leaves_nothing(tmp_path):
    train(tmp_path, EmaCallback(DECAY), **IF_BEST)  # the loss rises
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*unaveraged*")] == [
        "checkpoint-2/unaveraged.safetensors"
    ]


def test_a_checkpoint_that_is_asked_for_after_an_evaluation_has_the_weights_too(plain, tmp_path):
    class SaveWhatWasEvaluated(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            control.should_save = True

    train(tmp_path, EmaCallback(DECAY), SaveWhatWasEvaluated(), eval_strategy="steps", eval_steps=4)
    assert_close(load_file(tmp_path / "checkpoint-4/unaveraged.safetensors"), plain[3], exact=True)


def test_a_checkpoint_saved_without_the_callback_cannot_be_resumed_with_it(tmp_path):
    train(tmp_path, StopAfter(2), save_strategy="steps", save_steps=1)
    with pytest.raises(
        FileNotFoundError, match=r"checkpoint-2/unaveraged.safetensors does not exist. .*resume without it"
    ):
        make_trainer(tmp_path, EmaCallback(DECAY)).train(resume_from_checkpoint=True)


def test_a_checkpoint_elsewhere_can_be_named(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "old", EmaCallback(DECAY), **arguments)
    checkpoint = str(tmp_path / "old/checkpoint-4")
    with pytest.raises(
        FileNotFoundError, match="If the checkpoint is in another folder, pass it to `TrainingArguments"
    ):
        make_trainer(tmp_path / "new", EmaCallback(DECAY), **arguments).train(resume_from_checkpoint=checkpoint)
    resumed = make_trainer(tmp_path / "new", EmaCallback(DECAY), **arguments, resume_from_checkpoint=checkpoint)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert_close(copy_of(resumed.model), copy_of(whole.model), exact=True)


def test_a_checkpoint_that_would_not_hold_the_average_is_refused(tmp_path):
    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = True

    train(tmp_path, Save(), EmaCallback(DECAY))
    with pytest.raises(
        ValueError, match="`EmaCallback` must be the last callback, but a later one requested a checkpoint"
    ):
        train(tmp_path, EmaCallback(DECAY), Save())


@pytest.mark.parametrize("best", [1, 3])
def test_the_best_checkpoint_is_loaded_at_the_end(plain, tmp_path, best):
    class Judge(TrainerCallback):
        """Finds all other checkpoints worse."""

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_loss"] = float(state.global_step != 2 * best)

    arguments = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = train(tmp_path, EmaCallback(DECAY), Judge(), load_best_model_at_end=True, **arguments)
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{2 * best}"
    assert_close(copy_of(trainer.model), averages(plain)[2 * best - 1])


def test_without_any_best_checkpoint_the_average_is_left(plain, tmp_path):
    arguments = {"eval_strategy": "steps", "eval_steps": 50, "save_strategy": "steps", "save_steps": 50}
    trainer = train(tmp_path, StopAfter(4), EmaCallback(DECAY), load_best_model_at_end=True, **arguments)
    assert trainer.state.best_model_checkpoint is None
    assert_close(copy_of(trainer.model), averages(plain[:4])[-1])


def test_accumulated_batches_are_one_update(tmp_path):
    record = Record()
    options = {"gradient_accumulation_steps": 3, "num_train_epochs": 4, "eval_strategy": "epoch"}
    trainer = train(tmp_path, EmaCallback(DECAY), record, **options)
    assert len(record.weights) == trainer.state.global_step == 4
    assert_close(copy_of(trainer.model), averages(record.weights)[-1])


def test_a_callback_serves_several_runs(plain, tmp_path):
    callback = EmaCallback(DECAY)
    for _ in range(2):
        trainer = train(tmp_path, callback, eval_strategy="steps", eval_steps=4)
        assert_close(copy_of(trainer.model), averages(plain)[-1])
        shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("decay", [0, 0.0, 1, 1.0, -0.5, 1.5, float("nan")])
def test_a_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(
        ValueError, match=f"`decay` must be between 0 and 1, but got {decay}. Use a value such as 0.999"
    ):
        EmaCallback(decay)
