"""An exponential moving average of the weights, for any `Trainer`."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlmkit.training.checkpoints import checkpoint_folder

_UNAVERAGED = "unaveraged.safetensors"


class EmaCallback(TrainerCallback):
    """Evaluates and saves the moving average of the weights, while training goes on with the weights themselves.

    Checkpoints hold the average as their model, and beside it `unaveraged.safetensors`, from which a resumed run goes
    on exactly. After training the model holds the average (or the best checkpoint, with `load_best_model_at_end`).
    Buffers, such as the statistics of batch normalisation, are not averaged.

    Args:
        decay: part of the average that stays at each step, below 1; its memory is about 1 / (1 - decay) steps.

    Raises:
        ValueError: the decay is not between 0 and 1. In training, a callback behind this one asked for a checkpoint.
        FileNotFoundError: on resuming, the checkpoint in `output_dir` was saved without this callback.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (SIAM J. Control Optim. 30, 1992).

    Example:
        >>> EmaCallback(decay=1.0)
        Traceback (most recent call last):
        ...
        ValueError: decay is 1.0; give a number between 0 and 1, such as 0.999
    """

    def __init__(self, decay: float = 0.999):
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}; give a number between 0 and 1, such as 0.999")
        self.decay = decay
        self._holds_average = False  # whether the model does, and the other copy the weights themselves

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: PreTrainedModel, **_: Any
    ) -> None:
        """Copy the model; on resuming, it holds the average, and the weights themselves are read from the side."""
        self._model = model
        self._other = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self._holds_average = state.global_step > 0
        if self._holds_average:
            elsewhere = isinstance(args.resume_from_checkpoint, str) and Path(args.resume_from_checkpoint).is_dir()
            folder = Path(args.resume_from_checkpoint) if elsewhere else checkpoint_folder(args, state)
            path = folder / _UNAVERAGED
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing: either the run was saved without EmaCallback, then resume without it, or the "
                    "checkpoint lies elsewhere, then name it in TrainingArguments(resume_from_checkpoint=...)"
                )
            weights = load_file(path)
            for name, parameter in self._other.module.named_parameters():
                parameter.data.copy_(weights[name])
            self._other.n_averaged.fill_(1)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Train the weights themselves."""
        self._hold(average=False)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Average after each update."""
        self._other.update_parameters(self._model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate and save the average."""
        if control.should_evaluate or control.should_save:
            self._hold(average=True)

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the weights themselves beside the average."""
        if not self._holds_average:
            raise ValueError("a callback that stands behind EmaCallback asked for a checkpoint; put EmaCallback last")
        if state.is_world_process_zero:
            weights = {name: p.detach().contiguous() for name, p in self._other.module.named_parameters()}
            save_file(weights, checkpoint_folder(args, state) / _UNAVERAGED)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Leave the average in the model, unless Trainer has put the best checkpoint there."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._hold(average=True)

    @torch.no_grad()
    def _hold(self, average: bool) -> None:
        """Exchange the two sets of weights, unless the model holds the right one."""
        if self._holds_average != average:
            for parameter, other in zip(self._model.parameters(), self._other.module.parameters(), strict=True):
                kept = parameter.clone()
                parameter.copy_(other)
                other.copy_(kept)
            self._holds_average = average
