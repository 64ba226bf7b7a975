"""Ends a run whose loss diverges, and remembers when and why, so that an ablation can go on with its next row."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_MEMORY = 0.8  # part of the smoothed loss that stays at each log


class StopOnDivergence(TrainerCallback):
    """Stops training when the loss or the gradient's norm is no longer finite, or the smoothed loss rises too far.

    The loss is smoothed from log to log. It has risen too far when it stays above `factor` times its smallest smoothed
    value for `patience` logs in a row. The rule is relative, so it mistakes noise for divergence where the loss is
    close to 0 or each log is of a few samples only: log the mean of 10 steps or more. After training, `diverged` says
    what happened, and `step` and `reason` say when and why.

    Args:
        factor: above 1.
        patience: logs in a row, at least 1.
        warmup: first logs, in which the loss may rise; what is not finite counts from the first log on.

    Raises:
        ValueError: one of the numbers is too small. As training begins: Trainer hides losses that are not finite, or
            does not log at all.

    Example:
        >>> watch = StopOnDivergence(factor=3)
        >>> watch.diverged, watch.step
        (False, None)
    """

    def __init__(self, factor: float = 2.0, patience: int = 3, warmup: int = 5):
        if not factor > 1:
            raise ValueError(f"factor is {factor}; give a number above 1, such as 2")
        if patience < 1 or warmup < 0:
            raise ValueError(f"patience is {patience} and warmup {warmup}; give at least 1 and 0 logs")
        self.factor, self.patience, self.warmup = factor, patience, warmup
        self._forget()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin anew, with logs that show every loss."""
        if args.logging_nan_inf_filter:
            raise ValueError(
                "logging_nan_inf_filter is True, which hides a loss that is not finite; give "
                "TrainingArguments(logging_nan_inf_filter=False)"
            )
        if args.logging_strategy == "no":
            raise ValueError("logging_strategy is 'no', and without logs no loss is seen; give 'steps'")
        self._forget()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Judge the training loss; logs of evaluations and of the end have none."""
        if "loss" not in logs or self.diverged:
            return
        reason = self._judge(logs)
        if reason:
            self.diverged, self.step, self.reason = True, state.global_step, reason
            control.should_training_stop = True

    def _judge(self, logs: dict[str, float]) -> str:
        """Why training has diverged; empty while it has not."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                return f"{name} is {logs[name]}"
        loss = logs["loss"]
        self._num_logs += 1
        self._smoothed = loss if self._num_logs == 1 else _MEMORY * self._smoothed + (1 - _MEMORY) * loss
        self._best = min(self._best, self._smoothed)
        risen = self._num_logs > self.warmup and self._smoothed > self.factor * self._best
        self._risen_in_a_row = self._risen_in_a_row + 1 if risen else 0
        if self._risen_in_a_row < self.patience:
            return ""
        return f"smoothed loss {self._smoothed:.3g} is above {self.factor:g} times its best, {self._best:.3g}"

    def _forget(self) -> None:
        self.diverged = False
        self.step: int | None = None
        self.reason = ""
        self._num_logs = self._risen_in_a_row = 0
        self._smoothed = self._best = math.inf
