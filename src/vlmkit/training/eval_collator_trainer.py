"""`Trainer` with a separate data collator for evaluation."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset
from transformers import Trainer


class EvalCollatorTrainer(Trainer):
    """`Trainer` with a separate data collator for `evaluate` and `predict`.

    Use it if the collator for training augments or mixes images, which would distort the scores in evaluation.

    Args:
        *args: Positional arguments of `Trainer`.
        eval_data_collator: Data collator of `evaluate` and `predict`.
        **kwargs: Keyword arguments of `Trainer`. Its `data_collator` is used in training only.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import nn
        >>> from transformers import default_data_collator
        >>> from vlmkit.training import TableTrainingArguments
        >>> with TemporaryDirectory() as folder:
        ...     args = TableTrainingArguments(folder, use_cpu=True)
        ...     trainer = EvalCollatorTrainer(nn.Linear(1, 1), args, eval_data_collator=default_data_collator)
        >>> list(trainer.get_eval_dataloader([{"labels": 1}, {"labels": 2}]))
        [{'labels': tensor([1, 2])}]
    """

    def __init__(self, *args: Any, eval_data_collator: Callable[[list[Any]], dict[str, Any]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eval_data_collator = eval_data_collator

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Return the data loader of `evaluate`, with the data collator for evaluation."""
        return self._with_eval_collator(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Return the data loader of `predict`, with the data collator for evaluation."""
        return self._with_eval_collator(super().get_test_dataloader, test_dataset)

    def _with_eval_collator(self, get_dataloader: Callable[[Any], DataLoader], dataset: Any) -> DataLoader:
        training_collator: Any = self.data_collator  # type: ignore[has-type]
        self.data_collator = self.eval_data_collator
        try:
            return get_dataloader(dataset)
        finally:
            self.data_collator = training_collator
