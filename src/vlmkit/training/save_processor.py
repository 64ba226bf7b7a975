"""Saving processors that `Trainer` cannot take."""

from typing import Any

from transformers import ProcessorMixin, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlmkit.training.checkpoints import get_checkpoint_folder


class SaveProcessorCallback(TrainerCallback):
    """Saves a processor of images only beside the model, in the output folder and in every checkpoint.

    `Trainer(processing_class=...)` does this for processors with a tokenizer, and fails for those without.

    Args:
        processor: any.

    Example:
        >>> from vlmkit import PairedCifarAlignerProcessor
        >>> callback = SaveProcessorCallback(PairedCifarAlignerProcessor.for_cifar100())
    """

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save it once, as it does not change."""
        if state.is_world_process_zero:
            self.processor.save_pretrained(args.output_dir)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save it into the checkpoint."""
        if state.is_world_process_zero:
            self.processor.save_pretrained(get_checkpoint_folder(args, state))
