from torch import nn
from transformers import Trainer, TrainingArguments

from vlmkit.compat.weight_decay import decay_parameter_names


def test_biases_and_norms_are_not_decayed():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Embedding(4, 3))
    assert decay_parameter_names(model) == {"0.weight", "2.weight"}


def test_names_are_those_of_a_trainer(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    trainer = Trainer(model, TrainingArguments(tmp_path, use_cpu=True, report_to="none"))
    assert decay_parameter_names(model) == set(trainer.get_decay_parameter_names(model)) == {"0.weight"}
