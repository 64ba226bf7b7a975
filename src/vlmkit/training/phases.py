"""Where the phases of a training stand."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class PhaseStatus(NamedTuple):
    """How far a phase of training has come.

    Args:
        finished: whether its results are written.
        checkpoint: its newest whole checkpoint, if there is any.
    """

    finished: bool
    checkpoint: str | None


def phase_status(output_dir: str | Path) -> PhaseStatus:
    """Look how far the phase has come that writes into a folder.

    It is finished once the folder holds `train_results.json`, which `trainer.save_metrics("train", ...)` writes: make
    that call the last of the phase, after `trainer.save_model()`. A checkpoint that was being written when the process
    was killed is passed over.

    Args:
        output_dir: the phase's; it need not exist.

    Example:
        >>> phase_status("runs/not_begun")
        PhaseStatus(finished=False, checkpoint=None)
    """
    folder = Path(output_dir)
    # Trainer writes this file last, and only then deletes an older checkpoint.
    whole = [file.parent for file in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    checkpoint = str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
    return PhaseStatus((folder / "train_results.json").is_file(), checkpoint)


def check_phases(output_dirs: Sequence[str | Path], resume: bool) -> list[PhaseStatus]:
    """Return how far each phase has come, and check that no phase that has begun starts from the beginning.

    Args:
        output_dirs: a folder for each phase; see [`phase_status`].
        resume: whether phases that have begun go on: the script's flag `--resume`.

    Raises:
        ValueError: a phase has begun, and is not to be resumed.

    Example:
        >>> check_phases(["runs/new/phase_1", "runs/new/phase_2"], resume=False)
        [PhaseStatus(finished=False, checkpoint=None), PhaseStatus(finished=False, checkpoint=None)]
    """
    progress = [phase_status(folder) for folder in output_dirs]
    begun = [folder for folder, step in zip(output_dirs, progress, strict=True) if any(step)]
    if begun and not resume:
        raise ValueError(f"{begun[-1]} holds a run: go on with --resume, or give another --output_dir")
    return progress
