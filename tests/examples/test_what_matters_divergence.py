"""The callback that ends diverging runs, on real ones."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.examples.scripts import importable
from torch import nn
from transformers import GPT2LMHeadModel, Trainer, TrainerControl, TrainerState, TrainingArguments

STEPS = 60


@pytest.fixture
def watcher():
    with importable("what_matters"):
        yield importlib.import_module("divergence").StopOnDivergence


class Line(nn.Module):
    """One weight, which a large step throws ever further from its place."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def trainer(folder: Path, model: nn.Module, rows: list[dict], *callbacks, **arguments) -> Trainer:
    options = {"logging_nan_inf_filter": False, "logging_steps": 1, "lr_scheduler_type": "constant", **arguments}
    training_args = TrainingArguments(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
        **options,
    )
    return Trainer(model, training_args, train_dataset=rows, callbacks=list(callbacks))


def language_model(folder: Path, *callbacks, **arguments) -> Trainer:
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(2, 12, (8, 10))]
    return trainer(folder, GPT2LMHeadModel(tiny.text_config()), rows, *callbacks, **arguments)


def line(folder: Path, *callbacks, **arguments) -> Trainer:
    rows = [{"x": torch.tensor(float(x)), "labels": torch.tensor(2.0 * x)} for x in range(1, 9)]
    return trainer(folder, Line(), rows, *callbacks, optim="sgd", **arguments)


def judge(watch, losses: list[float], **others: float) -> list[bool]:
    """Whether each of the logs asks Trainer to stop."""
    asked = []
    for step, loss in enumerate(losses, start=1):
        control = TrainerControl()
        watch.on_log(None, TrainerState(global_step=step), control, logs={"loss": loss, **others})
        asked.append(control.should_training_stop)
    return asked


def test_a_language_model_with_absurd_steps_is_stopped(tmp_path, watcher):
    watch = watcher()
    run = language_model(tmp_path, watch, learning_rate=10.0)
    run.train()
    assert watch.diverged
    assert watch.step == run.state.global_step < STEPS
    assert "above 2 times its best" in watch.reason
    assert run.state.log_history[-2]["loss"] > run.state.log_history[0]["loss"]


def test_a_language_model_with_sensible_steps_is_not(tmp_path, watcher):
    watch = watcher()
    run = language_model(tmp_path, watch, learning_rate=1e-3)
    run.train()
    assert (watch.diverged, watch.step, watch.reason) == (False, None, "")
    assert run.state.global_step == STEPS
    assert run.state.log_history[-2]["loss"] < run.state.log_history[0]["loss"]


def test_a_loss_that_is_no_longer_finite_ends_the_run(tmp_path, watcher):
    watch = watcher(factor=1e30)
    run = line(tmp_path, watch, learning_rate=1e6, max_grad_norm=0)
    run.train()
    assert watch.step == run.state.global_step < STEPS
    assert watch.reason in ("loss is inf", "loss is nan", "grad_norm is inf", "grad_norm is nan")


def test_the_next_training_begins_anew(tmp_path, watcher):
    watch = watcher(factor=1e30)
    line(tmp_path, watch, learning_rate=1e6, max_grad_norm=0).train()
    assert watch.diverged
    line(tmp_path, watch, learning_rate=1e-4).train()
    assert (watch.diverged, watch.step, watch.reason) == (False, None, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logging_nan_inf_filter": True}, "`logging_nan_inf_filter` must be False, but got True"),
        ({"logging_strategy": "no"}, "`logging_strategy` must be 'steps' or 'epoch', but got 'no'"),
    ],
)
def test_logs_must_show_every_loss(tmp_path, watcher, arguments, message):
    with pytest.raises(ValueError, match=message):
        line(tmp_path, watcher(), **arguments).train()


def test_the_rise_must_last(watcher):
    # Smoothed, 1 and then 9s are 1, 2.6, 3.88, 4.9: more than twice the best from the second on.
    watch = watcher(patience=3, warmup=0)
    assert judge(watch, [1, 9, 9, 9, 9]) == [False, False, False, True, False]
    assert watch.step == 4
    assert watch.reason == "smoothed loss 4.9 is above 2 times its best, 1"
    # 1, 2.2, 1.76, 3.21: the third is back below twice the best.
    assert not any(judge(watcher(patience=2, warmup=0), [1, 7, 0, 9]))
    assert any(judge(watcher(patience=1, warmup=0), [1, 7, 0, 9]))


def test_the_loss_may_rise_in_the_warmup(watcher):
    assert judge(watcher(patience=1, warmup=3), [1, 9, 9, 9]) == [False, False, False, True]
    assert not any(judge(watcher(patience=1, warmup=4), [1, 9, 9, 9]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_counts_in_the_warmup_too(watcher, value):
    watch = watcher(warmup=100)
    assert judge(watch, [1, value]) == [False, True]
    assert (watch.step, watch.reason) == (2, f"loss is {value}")
    watch = watcher(warmup=100)
    assert judge(watch, [1], grad_norm=value) == [True]
    assert watch.reason == f"grad_norm is {value}"


def test_only_training_losses_are_judged(watcher):
    watch, control = watcher(), TrainerControl()
    watch.on_log(None, TrainerState(), control, logs={"eval_loss": math.nan})
    watch.on_log(None, TrainerState(), control, logs={"train_loss": math.nan})
    assert not watch.diverged
    assert not control.should_training_stop


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1}, "`factor` must be greater than 1, but got 1"),
        ({"factor": math.nan}, "`factor` must be greater than 1, but got nan"),
        ({"patience": 0}, "`patience` must be at least 1, but got 0"),
        ({"warmup": -1}, "`warmup` must be at least 0, but got -1"),
    ],
)
def test_numbers_that_make_no_sense(watcher, options, message):
    with pytest.raises(ValueError, match=message):
        watcher(**options)
