"""A `Trainer` that evaluates with other batches than it trains with."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset
from transformers import Trainer


class EvalCollatorTrainer(Trainer):
    """A `Trainer` with a collator of its own for evaluation and prediction.

    Collators that augment or mix images must not do so when they are scored, and `Trainer` knows only one collator.

    Args:
        *args: as for `Trainer`.
        eval_data_collator: for `evaluate` and `predict`.
        **kwargs: as for `Trainer`.
    """

    def __init__(self, *args: Any, eval_data_collator: Callable[[list[Any]], dict[str, Any]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eval_data_collator = eval_data_collator

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """The batches of `evaluate`."""
        return self._with_eval_collator(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """The batches of `predict`."""
        return self._with_eval_collator(super().get_test_dataloader, test_dataset)

    def _with_eval_collator(self, get_dataloader: Callable[[Any], DataLoader], dataset: Any) -> DataLoader:
        training_collator: Any = self.data_collator  # type: ignore[has-type]
        self.data_collator = self.eval_data_collator
        try:
            return get_dataloader(dataset)
        finally:
            self.data_collator = training_collator
