"""An exponential moving average of the weights, for any `Trainer`."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from vlmkit.training.checkpoints import get_checkpoint_folder

_UNAVERAGED = "unaveraged.safetensors"


class EmaCallback(TrainerCallback):
    """Evaluates and saves the moving average of the weights, while training goes on with the weights themselves.

    Checkpoints hold the average as their model, and beside it `unaveraged.safetensors`, from which a resumed run goes
    on exactly, whenever it was killed. After training the model holds the average (or the best checkpoint, with
    `load_best_model_at_end`). Buffers, such as the statistics of batch normalisation, are not averaged.

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
            weights = load_file(_unaveraged_file(args, state))
            for name, parameter in self._other.module.named_parameters():
                parameter.data.copy_(weights[name])
            self._other.n_averaged.fill_(1)
        _discard_pending(args, state)

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
            if control.should_save or args.save_strategy == SaveStrategy.BEST:  # which decides after the evaluation
                self._write_pending(args, state)

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the weights themselves beside the average."""
        if not self._holds_average:
            raise ValueError("a callback that stands behind EmaCallback asked for a checkpoint; put EmaCallback last")
        if state.is_world_process_zero:
            folder = get_checkpoint_folder(args, state)
            if not _pending_file(folder).is_file():  # another callback asked for the checkpoint after an evaluation
                self._write_pending(args, state)
            _pending_file(folder).replace(folder / _UNAVERAGED)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Leave the average in the model, unless Trainer has put the best checkpoint there."""
        _discard_pending(args, state)
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._hold(average=True)

    def _write_pending(self, args: TrainingArguments, state: TrainerState) -> None:
        """Write the weights themselves for the checkpoint to come.

        Trainer writes a checkpoint, deletes an older one, and only then calls `on_save`: a run that is killed before
        that shall find them. Until then they lie beside the folder, as a folder without a model would be taken for the
        newest checkpoint.
        """
        _discard_pending(args, state)
        if state.is_world_process_zero:
            path = _pending_file(get_checkpoint_folder(args, state))
            weights = {name: p.detach().contiguous() for name, p in self._other.module.named_parameters()}
            save_file(weights, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)

    @torch.no_grad()
    def _hold(self, average: bool) -> None:
        """Exchange the two sets of weights, unless the model holds the right one."""
        if self._holds_average != average:
            for parameter, other in zip(self._model.parameters(), self._other.module.parameters(), strict=True):
                kept = parameter.clone()
                parameter.copy_(other)
                other.copy_(kept)
            self._holds_average = average


def _pending_file(folder: Path) -> Path:
    """Where the weights themselves lie until the checkpoint in a folder is written."""
    return folder.with_name(f"{folder.name}-{_UNAVERAGED}")


def _discard_pending(args: TrainingArguments, state: TrainerState) -> None:
    """Delete the weights that no checkpoint came for."""
    if state.is_world_process_zero:
        for file in Path(args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*-{Path(_UNAVERAGED).stem}.*"):
            file.unlink()


def _unaveraged_file(args: TrainingArguments, state: TrainerState) -> Path:
    """The weights themselves that belong to the checkpoint from which a run is resumed.

    Raises:
        FileNotFoundError: there are none.
    """
    elsewhere = isinstance(args.resume_from_checkpoint, str) and Path(args.resume_from_checkpoint).is_dir()
    folder = Path(args.resume_from_checkpoint) if elsewhere else get_checkpoint_folder(args, state)
    path = folder / _UNAVERAGED
    with args.main_process_first(local=False):
        if state.is_world_process_zero and folder.is_dir() and not path.exists() and _pending_file(folder).exists():
            _pending_file(folder).replace(path)  # the run was killed between the checkpoint and `on_save`
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: either the run was saved without EmaCallback, then resume without it, or the "
            "checkpoint lies elsewhere, then name it in TrainingArguments(resume_from_checkpoint=...)"
        )
    return path
