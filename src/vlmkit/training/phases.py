"""Where a phase of training stands."""

from pathlib import Path
from typing import NamedTuple

from transformers.trainer_utils import get_last_checkpoint


class PhaseProgress(NamedTuple):
    """How far a phase of training has come.

    Args:
        finished: whether its results are written.
        checkpoint: its newest checkpoint, if there is any.
    """

    finished: bool
    checkpoint: str | None


def phase_progress(output_dir: str | Path) -> PhaseProgress:
    """Look how far the phase has come that writes into a folder.

    It is finished once the folder holds `train_results.json`, which `trainer.save_metrics("train", ...)` writes: make
    that call the last of the phase, after `trainer.save_model()`.

    Args:
        output_dir: the phase's; it need not exist.

    Example:
        >>> phase_progress("runs/not_begun")
        PhaseProgress(finished=False, checkpoint=None)
    """
    folder = Path(output_dir)
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    return PhaseProgress((folder / "train_results.json").is_file(), checkpoint)
