"""EvalCollatorTrainer trains with one collator, and evaluates and predicts with the other."""

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from vlmkit.training import EvalCollatorTrainer


class Shift(nn.Module):
    """Returns its input, and a loss that an optimizer can lower."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (values + self.shift - labels).pow(2).mean(), "values": values + 0 * self.shift}


def collator(offset: float, seen: list[float]):
    def collate(items):
        seen.append(offset)
        values = torch.tensor(items, dtype=torch.float32)[:, None]
        return {"values": values + offset, "labels": values}

    return collate


@pytest.fixture
def seen() -> list[float]:
    return []


@pytest.fixture
def trainer(tmp_path, seen) -> EvalCollatorTrainer:
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True, save_strategy="no"
    )
    return EvalCollatorTrainer(
        Shift(),
        arguments,
        data_collator=collator(100.0, seen),
        eval_data_collator=collator(0.0, seen),
        train_dataset=[1.0, 2.0, 3.0],
        eval_dataset=[4.0, 5.0],
    )


def test_training_uses_its_own(trainer, seen):
    trainer.train()
    assert set(seen) == {100.0}


def test_evaluation_and_prediction_use_the_other(trainer, seen):
    assert trainer.evaluate()["eval_loss"] == 0.0
    assert trainer.predict([6.0]).predictions.tolist() == [[6.0]]
    assert set(seen) == {0.0}
    trainer.train()
    assert set(seen) == {0.0, 100.0}
