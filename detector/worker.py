"""One of the processes of a training on several devices: ``-m wafer.detector.worker FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafer.datasets.files import write_text
from wafer.detector.processes import Progress, child_process, report_progress, run_child

__all__ = ["train_in_processes"]

OVERRIDES = "overrides.json"


def train_in_processes(
    overrides: Mapping[str, Any], *, folder: Path, world: int, progress: Progress | None = None
) -> None:
    """Train in several processes, which average their gradients after every batch.

    ultralytics' own launcher would delete the run folder first, and pickles the trainer.

    Args:
        overrides: the arguments of the trainer.
        folder: the run folder.
        world: how many processes.
        progress: called after every batch.

    Raises:
        TrainingError: a process failed.
    """
    path = folder / OVERRIDES
    write_text(path, json.dumps(dict(overrides)))
    # Each process would remove it, and all but the first fail; the saved state has its content.
    (folder / "results.csv").unlink(missing_ok=True)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    run_child(
        [*launcher, f"--nproc-per-node={world}", "-m", "wafer.detector.worker", str(path)],
        progress=progress,
    )
    path.unlink()


def main() -> None:
    """Train with the arguments in the file that the command line names."""
    from wafer.detector.trainer import WaferTrainer
    from wafer.detector.ultralytics_adapter import RANK

    overrides = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    trainer = WaferTrainer(overrides=overrides)
    if RANK == 0:
        trainer.progress = report_progress
    trainer.train()


if __name__ == "__main__":
    with child_process():
        main()
