"""Callback that stops diverging runs and records the step and the reason."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_MEMORY = 0.8  # weight of the previous value in the exponential moving average


class StopOnDivergence(TrainerCallback):
    """Stop training if the loss or the gradient norm is not finite, or if the smoothed loss rises too far.

    The logged loss is smoothed by an exponential moving average. Training has diverged if the smoothed loss exceeds
    `factor` times its minimum for `patience` consecutive logs. The threshold is relative, so it is sensitive to noise
    if the loss is close to 0 or each log averages few samples. Set `logging_steps` to 10 or more.

    Args:
        factor: Ratio of the smoothed loss to its minimum above which the loss counts as rising. Must be greater than 1.
        patience: Number of consecutive logs with a rising loss that stop training.
        warmup: Number of logs at the start in which the loss may rise. Values that are not finite always stop training.

    Attributes:
        diverged: Whether training has diverged.
        step: Global step at which it diverged, or `None`.
        reason: Reason for the divergence, or an empty string.

    Raises:
        ValueError: If an argument is out of range. At the start of training, if the training arguments filter losses
            that are not finite or disable logging.

    Example:
        >>> watch = StopOnDivergence(factor=3)
        >>> watch.diverged, watch.step
        (False, None)
    """

    def __init__(self, factor: float = 2.0, patience: int = 3, warmup: int = 5):
        if not factor > 1:
            raise ValueError(f"`factor` must be greater than 1, but got {factor}.")
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1, but got {patience}.")
        if warmup < 0:
            raise ValueError(f"`warmup` must be at least 0, but got {warmup}.")
        self.factor, self.patience, self.warmup = factor, patience, warmup
        self._reset()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Reset the state and check that all losses are logged."""
        if args.logging_nan_inf_filter:
            raise ValueError(
                "`logging_nan_inf_filter` must be False, but got True, which hides losses that are not finite. Set "
                "`TrainingArguments(logging_nan_inf_filter=False)`."
            )
        if args.logging_strategy == "no":
            raise ValueError("`logging_strategy` must be 'steps' or 'epoch', but got 'no', which logs no losses.")
        self._reset()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Stop training if the logged training loss diverges. Logs without a training loss are ignored."""
        if "loss" not in logs or self.diverged:
            return
        reason = self._divergence_reason(logs)
        if reason:
            self.diverged, self.step, self.reason = True, state.global_step, reason
            control.should_training_stop = True

    def _divergence_reason(self, logs: dict[str, float]) -> str:
        """Return why training has diverged, or an empty string."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                return f"{name} is {logs[name]}"
        loss = logs["loss"]
        self._num_logs += 1
        self._smoothed = loss if self._num_logs == 1 else _MEMORY * self._smoothed + (1 - _MEMORY) * loss
        self._best = min(self._best, self._smoothed)
        is_rising = self._num_logs > self.warmup and self._smoothed > self.factor * self._best
        self._num_rising = self._num_rising + 1 if is_rising else 0
        if self._num_rising < self.patience:
            return ""
        return f"smoothed loss {self._smoothed:.3g} is above {self.factor:g} times its best, {self._best:.3g}"

    def _reset(self) -> None:
        self.diverged = False
        self.step: int | None = None
        self.reason = ""
        self._num_logs = self._num_rising = 0
        self._smoothed = self._best = math.inf
