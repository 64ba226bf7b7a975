"""Callback that maintains an exponential moving average (EMA) of the model weights."""

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
    """Callback that evaluates and saves an exponential moving average of the weights.

    The optimizer updates the raw weights. The average starts from the raw weights after the first optimizer step and is
    updated after every further step: `average = decay * average + (1 - decay) * weights`.

    - Evaluations and checkpoints use the average. Each checkpoint also contains the raw weights in
      `unaveraged.safetensors`, so that a resumed run continues exactly, even if the process was killed.
    - To resume from a checkpoint outside of `output_dir`, pass its path to `TrainingArguments` as well:
      `TrainingArguments(resume_from_checkpoint=...)`.
    - After training, the model has the averaged weights, or the best checkpoint with `load_best_model_at_end`.
    - Buffers, such as batch normalization statistics, are not averaged.
    - This callback must come after all callbacks that request checkpoints.

    Args:
        decay: Weight of the previous average in each update, greater than 0 and less than 1. The average covers about
            `1 / (1 - decay)` steps. Default: 0.999.

    Raises:
        ValueError: If `decay` is not between 0 and 1. In training, if a later callback requests a checkpoint.
        FileNotFoundError: On resuming, if the checkpoint does not contain the raw weights, because it was saved without
            this callback.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (SIAM J. Control Optim. 30, 1992).

    Example:
        >>> callbacks = [EmaCallback(decay=0.99)]  # for Trainer(callbacks=callbacks)
    """

    def __init__(self, decay: float = 0.999):
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be between 0 and 1, but got {decay}. Use a value such as 0.999.")
        self.decay = decay
        self._model_is_averaged = False  # if True, the other copy has the raw weights

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: PreTrainedModel, **_: Any
    ) -> None:
        """Copy the model. On resuming, the model has the averaged weights, and the raw weights are loaded."""
        self._model = model
        self._other = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self._model_is_averaged = state.global_step > 0
        if self._model_is_averaged:
            weights = load_file(_unaveraged_file(args, state))
            for name, parameter in self._other.module.named_parameters():
                parameter.data.copy_(weights[name])
            self._other.n_averaged.fill_(1)
        _discard_pending(args, state)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Swap the raw weights back in before the next optimizer step."""
        self._swap(average=False)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Update the average after an optimizer step."""
        self._other.update_parameters(self._model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Swap the average in before an evaluation or a checkpoint."""
        if control.should_evaluate or control.should_save:
            self._swap(average=True)
            # With SaveStrategy.BEST, the evaluation decides whether a checkpoint is saved.
            if control.should_save or args.save_strategy == SaveStrategy.BEST:
                self._write_pending(args, state)

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the raw weights into the checkpoint."""
        if not self._model_is_averaged:
            raise ValueError(
                "`EmaCallback` must be the last callback, but a later one requested a checkpoint. Move `EmaCallback` "
                "to the end of `callbacks`."
            )
        if state.is_world_process_zero:
            folder = get_checkpoint_folder(args, state)
            if not _pending_file(folder).is_file():  # another callback requested the checkpoint in `on_evaluate`
                self._write_pending(args, state)
            _pending_file(folder).replace(folder / _UNAVERAGED)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Swap the average in at the end, unless `Trainer` has loaded the best checkpoint."""
        _discard_pending(args, state)
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._swap(average=True)

    def _write_pending(self, args: TrainingArguments, state: TrainerState) -> None:
        """Save the raw weights of the next checkpoint to a pending file.

        `Trainer` saves a checkpoint and deletes older ones before it calls `on_save`. With the pending file, a run that
        is killed in between can still be resumed. The file is next to the checkpoint folder, because `Trainer` would
        resume from a folder even if it does not contain a model yet.
        """
        _discard_pending(args, state)
        if state.is_world_process_zero:
            path = _pending_file(get_checkpoint_folder(args, state))
            weights = {name: p.detach().contiguous() for name, p in self._other.module.named_parameters()}
            save_file(weights, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)

    @torch.no_grad()
    def _swap(self, average: bool) -> None:
        """Put the averaged or the raw weights into the model, and the others into the copy."""
        if self._model_is_averaged != average:
            for parameter, other in zip(self._model.parameters(), self._other.module.parameters(), strict=True):
                previous = parameter.clone()
                parameter.copy_(other)
                other.copy_(previous)
            self._model_is_averaged = average


def _pending_file(folder: Path) -> Path:
    """Return the file of the raw weights until the checkpoint in a folder is complete."""
    return folder.with_name(f"{folder.name}-{_UNAVERAGED}")


def _discard_pending(args: TrainingArguments, state: TrainerState) -> None:
    """Delete pending files whose checkpoint was not saved."""
    if state.is_world_process_zero:
        for file in Path(args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*-{Path(_UNAVERAGED).stem}.*"):
            file.unlink()


def _unaveraged_file(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the file of the raw weights in the checkpoint from which a run is resumed.

    Raises:
        FileNotFoundError: If the checkpoint does not contain raw weights.
    """
    is_external = isinstance(args.resume_from_checkpoint, str) and Path(args.resume_from_checkpoint).is_dir()
    folder = Path(args.resume_from_checkpoint) if is_external else get_checkpoint_folder(args, state)
    path = folder / _UNAVERAGED
    with args.main_process_first(local=False):
        if state.is_world_process_zero and folder.is_dir() and not path.exists() and _pending_file(folder).exists():
            _pending_file(folder).replace(path)  # the run was killed between the checkpoint and `on_save`
    if not path.is_file():
        raise FileNotFoundError(
            f"`EmaCallback` resumes from the raw weights, but {path} does not exist. If the run was saved without "
            "`EmaCallback`, resume without it. If the checkpoint is in another folder, pass it to "
            "`TrainingArguments(resume_from_checkpoint=...)`."
        )
    return path
