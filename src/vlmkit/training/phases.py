"""Where a phase of training stands."""

from pathlib import Path
from typing import NamedTuple

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class PhaseProgress(NamedTuple):
    """How far a phase of training has come.

    Args:
        finished: whether its results are written.
        checkpoint: its newest whole checkpoint, if there is any.
    """

    finished: bool
    checkpoint: str | None


def phase_progress(output_dir: str | Path) -> PhaseProgress:
    """Look how far the phase has come that writes into a folder.

    It is finished once the folder holds `train_results.json`, which `trainer.save_metrics("train", ...)` writes: make
    that call the last of the phase, after `trainer.save_model()`. A checkpoint that was being written when the process
    was killed is passed over.

    Args:
        output_dir: the phase's; it need not exist.

    Example:
        >>> phase_progress("runs/not_begun")
        PhaseProgress(finished=False, checkpoint=None)
    """
    folder = Path(output_dir)
    # Trainer writes this file last, and only then deletes an older checkpoint.
    whole = [file.parent for file in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    checkpoint = str(max(whole, key=lambda place: int(place.name.rpartition("-")[2]))) if whole else None
    return PhaseProgress((folder / "train_results.json").is_file(), checkpoint)
