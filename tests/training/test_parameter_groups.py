from pathlib import Path

import pytest
import torch
from tests import tiny
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from vlmkit import DualEncoderModel
from vlmkit.training import freeze_lower_blocks, optimizer_with_group_learning_rates

RATE = 1e-2


class StopAfter(TrainerCallback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


def arguments(folder: Path, **kwargs) -> TrainingArguments:
    options = {"learning_rate": RATE, "weight_decay": 0.1, "report_to": "none", **kwargs}
    return TrainingArguments(folder, disable_tqdm=True, dataloader_pin_memory=False, **options)


def language_model() -> GPT2LMHeadModel:
    set_seed(0)
    return GPT2LMHeadModel(tiny.text_config())


def dual_encoder() -> DualEncoderModel:
    return DualEncoderModel(tiny.dual_encoder_config())


def rows(count: int = 24) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": ids, "labels": ids} for ids in torch.randint(2, 99, (count, 7), generator=generator)]


def make_trainer(folder: Path, rates: dict[str, float], *callbacks: TrainerCallback, **kwargs) -> Trainer:
    """Six updates of a model of which the lower block is frozen; its dropout uses the random state."""
    model = language_model()
    freeze_lower_blocks(model, fraction=0.5)
    options = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "save_strategy": "no", **kwargs}
    training_args = arguments(folder, lr_scheduler_type="cosine", **options)
    return Trainer(
        model,
        training_args,
        train_dataset=rows(),
        optimizer_cls_and_kwargs=optimizer_with_group_learning_rates(training_args, model, parameter_groups=rates),
        callbacks=list(callbacks),
    )


def settings_by_name(model, groups) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter in the groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def groups_for(folder: Path, model, rates: dict[str, float], **kwargs) -> list[dict]:
    return optimizer_with_group_learning_rates(arguments(folder, **kwargs), model, parameter_groups=rates)[1]["params"]


def test_without_parts_it_is_trainers_own_optimizer(tmp_path):
    model = language_model()
    training_args = arguments(tmp_path, adam_beta2=0.9, optim="adamw_torch")
    plain = Trainer(model, training_args).create_optimizer()
    ours = Trainer(
        model,
        training_args,
        optimizer_cls_and_kwargs=optimizer_with_group_learning_rates(training_args, model, parameter_groups={}),
    ).create_optimizer()
    assert type(ours) is type(plain)
    assert ours.defaults == plain.defaults
    assert ours.param_groups == plain.param_groups


def test_each_part_has_its_rate_and_trainers_decay(tmp_path):
    model = language_model()
    rates = {"transformer.h.1": 3e-4, "transformer.wte": 2e-4}
    plain = settings_by_name(model, Trainer(model, arguments(tmp_path)).create_optimizer().param_groups)
    ours = settings_by_name(model, groups_for(tmp_path, model, rates))
    assert ours.keys() == plain.keys()
    for name, (rate, decay) in ours.items():
        assert decay == plain[name][1]
        part = next((part for part in rates if name.startswith(part)), None)
        assert rate == rates.get(part, RATE)
    assert ours["transformer.h.1.mlp.c_fc.weight"] == (3e-4, 0.1)
    assert ours["transformer.h.1.mlp.c_fc.bias"] == (3e-4, 0.0)
    assert ours["transformer.h.1.ln_1.weight"] == (3e-4, 0.0)


def test_the_longest_name_decides_in_any_order(tmp_path):
    model = language_model()
    rates = {"transformer.h.1.mlp": 3e-4, "transformer": 1e-4, "transformer.h.1": 2e-4}
    for ordered in (rates, dict(reversed(rates.items()))):
        found = {
            name: rate for name, (rate, _) in settings_by_name(model, groups_for(tmp_path, model, ordered)).items()
        }
        assert found["transformer.h.1.mlp.c_fc.weight"] == 3e-4
        assert found["transformer.h.1.ln_1.weight"] == 2e-4
        assert found["transformer.h.0.ln_1.weight"] == found["transformer.wpe.weight"] == 1e-4


def test_a_name_ends_at_a_dot(tmp_path):
    model = GPT2LMHeadModel(tiny.text_config(n_layer=11))
    found = settings_by_name(model, groups_for(tmp_path, model, {"transformer.h.1": 2e-4}))
    assert found["transformer.h.1.ln_1.weight"][0] == 2e-4
    assert found["transformer.h.10.ln_1.weight"][0] == RATE


def test_a_parameter_is_a_part(tmp_path):
    model = language_model()
    found = settings_by_name(model, groups_for(tmp_path, model, {"transformer.wpe.weight": 2e-4}))
    assert {name for name, (rate, _) in found.items() if rate == 2e-4} == {"transformer.wpe.weight"}


def test_a_part_of_everything_leaves_no_empty_group(tmp_path):
    groups = groups_for(tmp_path, language_model(), {"transformer": 2e-4})
    assert [group["lr"] for group in groups] == [2e-4, 2e-4]


def test_frozen_parameters_are_left_out_and_make_no_group(tmp_path):
    model = dual_encoder()
    model.vision_tower.requires_grad_(False)
    model.text_tower.requires_grad_(False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = groups_for(tmp_path, model, {"vision_tower": 1e-5, "text_tower": 2e-5})
    assert all(group["params"] for group in groups)
    assert {group["lr"] for group in groups} == {RATE}
    assert settings_by_name(model, groups).keys() == trained


def test_the_schedule_keeps_the_ratios_and_the_log_shows_the_rate_of_the_rest(tmp_path):
    seen = []

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **kwargs):
            seen.append([group["lr"] for group in optimizer.param_groups])

    trainer = make_trainer(tmp_path, {"transformer.h": RATE / 5}, Rates(), logging_steps=1, warmup_steps=2)
    trainer.train()
    rates = torch.tensor(seen, dtype=torch.float64)
    assert len(rates) == 6
    assert len(rates[:, 0].unique()) > 3
    torch.testing.assert_close(rates[:, -1], rates[:, 0] / 5)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert max(logged) == RATE


def test_the_first_update_moves_each_part_by_its_rate(tmp_path):
    """Adam's first step is the learning rate times the gradient's sign."""
    trainer = make_trainer(tmp_path, {"transformer.h": RATE / 100}, max_steps=1, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in trainer.model.named_parameters()}
    assert moved["transformer.h.0.mlp.c_fc.weight"] == moved["transformer.wpe.weight"] == 0
    assert moved["transformer.h.1.mlp.c_fc.weight"] == pytest.approx(RATE / 100, rel=0.01)
    assert moved["transformer.wte.weight"] == pytest.approx(RATE, rel=0.01)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    rates = {"transformer.h": RATE / 10, "transformer.wte": RATE / 2}
    whole = make_trainer(tmp_path / "whole", rates)
    whole.train()
    options = {"save_strategy": "steps", "save_steps": 2}
    killed = make_trainer(tmp_path / "killed", rates, StopAfter(3), **options)  # one step after its checkpoint
    killed.train()
    resumed = make_trainer(tmp_path / "killed", rates, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed/checkpoint-2"))
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name
    assert any(not torch.equal(p, killed.model.get_parameter(name)) for name, p in whole.model.named_parameters())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("text_towr", "of the model, but got 'text_towr'. Did you mean 'text_tower'?"),
        ("text_tower.", "of the model, but got 'text_tower.'. Did you mean 'text_tower'?"),
        ("vision", "of the model, but got 'vision'."),
        ("", "of the model, but got ''."),
    ],
)
def test_a_name_that_fits_no_parameter(tmp_path, part, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("?", r"\?")):
        groups_for(tmp_path, dual_encoder(), {part: 1e-4})


def test_a_tied_weight_has_the_first_of_its_names(tmp_path):
    with pytest.raises(ValueError, match="names of modules or parameters of the model, but got 'lm_head'"):
        groups_for(tmp_path, language_model(), {"lm_head": 1e-4})


@pytest.mark.parametrize("rate", ["1e-4", 0, -1e-4, True, None, float("nan")])
def test_a_rate_that_is_none(tmp_path, rate):
    with pytest.raises(
        ValueError, match=r"The learning rate of 'transformer' must be a positive number, but got .*\. In YAML"
    ):
        groups_for(tmp_path, language_model(), {"transformer": rate})


def test_an_optimizer_with_groups_of_its_own(tmp_path, monkeypatch):
    """Such as GaLore, whose package is not at hand."""
    galore = staticmethod(lambda args, model: (torch.optim.AdamW, {"params": [{"params": [], "rank": 2}]}))
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", galore)
    with pytest.raises(ValueError, match="`optim` must not define its own parameter groups, but got galore_adamw"):
        groups_for(tmp_path, language_model(), {"transformer": 1e-4}, optim="galore_adamw")
