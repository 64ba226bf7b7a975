"""Progress of trainings that consist of several phases."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class PhaseStatus(NamedTuple):
    """Progress of a training phase.

    Args:
        finished: Whether the phase is finished.
        checkpoint: Path of the latest complete checkpoint, or `None` if the phase has not saved one.
    """

    finished: bool
    checkpoint: str | None


def phase_status(output_dir: str | Path) -> PhaseStatus:
    """Return the progress of the training phase that writes to an output folder.

    A phase is finished if its folder contains `train_results.json`, which `trainer.save_metrics("train", ...)` writes.
    Call that method at the end of the phase, after `trainer.save_model()`. Checkpoints that are incomplete because the
    process was killed are ignored.

    Args:
        output_dir: Output folder of the phase, which does not have to exist.

    Example:
        >>> phase_status("runs/phase_1")
        PhaseStatus(finished=False, checkpoint=None)
    """
    folder = Path(output_dir)
    # Trainer writes this file last, before it deletes older checkpoints.
    complete = [file.parent for file in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    checkpoint = str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None
    return PhaseStatus((folder / "train_results.json").is_file(), checkpoint)


def check_phases(output_dirs: Sequence[str | Path], resume: bool) -> list[PhaseStatus]:
    """Return the progress of each phase, and check that existing results are not overwritten.

    Args:
        output_dirs: Output folder of each phase, see [`phase_status`].
        resume: Whether phases with checkpoints or results may be resumed. Scripts pass their flag `--resume`.

    Raises:
        ValueError: If `resume` is `False` and a phase has a checkpoint or results.

    Example:
        >>> check_phases(["runs/new/phase_1", "runs/new/phase_2"], resume=False)
        [PhaseStatus(finished=False, checkpoint=None), PhaseStatus(finished=False, checkpoint=None)]
    """
    progress = [phase_status(folder) for folder in output_dirs]
    started = [folder for folder, status in zip(output_dirs, progress, strict=True) if any(status)]
    if started and not resume:
        raise ValueError(f"{started[-1]} already contains a run. Pass `--resume`, or another `--output_dir`.")
    return progress
