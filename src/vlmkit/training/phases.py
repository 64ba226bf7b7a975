"""Where the phases of a training stand."""

from collections.abc import Sequence
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


def progress_of_phases(output_dirs: Sequence[str | Path], resume: bool) -> list[PhaseProgress]:
    """Look how far each phase has come, and refuse to begin anew what has begun.

    Args:
        output_dirs: a folder for each phase; see [`phase_progress`].
        resume: whether phases that have begun go on: the script's flag `--resume`.

    Raises:
        ValueError: a phase has begun, and is not to be resumed.

    Example:
        >>> progress_of_phases(["runs/new/phase_1", "runs/new/phase_2"], resume=False)
        [PhaseProgress(finished=False, checkpoint=None), PhaseProgress(finished=False, checkpoint=None)]
    """
    progress = [phase_progress(folder) for folder in output_dirs]
    begun = [folder for folder, step in zip(output_dirs, progress, strict=True) if any(step)]
    if begun and not resume:
        raise ValueError(f"{begun[-1]} holds a run: go on with --resume, or give another --output_dir")
    return progress
