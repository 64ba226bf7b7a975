"""Callback that saves a processor without a tokenizer."""

from typing import Any

from transformers import ProcessorMixin, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlmkit.training.checkpoints import get_checkpoint_folder


class SaveProcessorCallback(TrainerCallback):
    """Callback that saves a processor with the model, in the output folder and in every checkpoint.

    Use it for processors without a tokenizer. `Trainer(processing_class=...)` saves all other processors, but fails
    without a tokenizer.

    Args:
        processor: Processor to save.

    Example:
        >>> from vlmkit import PairedCifarAlignerProcessor
        >>> processor = PairedCifarAlignerProcessor.for_cifar100()
        >>> callbacks = [SaveProcessorCallback(processor)]  # for Trainer(callbacks=callbacks)
    """

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the processor to the output folder, once, because it does not change."""
        if state.is_world_process_zero:
            self.processor.save_pretrained(args.output_dir)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the processor to the checkpoint."""
        if state.is_world_process_zero:
            self.processor.save_pretrained(get_checkpoint_folder(args, state))
