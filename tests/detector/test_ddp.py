"""A training shared by two real processes (gloo, on the CPU): one draw, one set of maps."""

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.detector.draws import DRAWS, maps_after, read_draws
from wafer.detector.image_weights import draw_epoch, image_probabilities, instance_counts
from wafer.detector.plan import PLAN, read_plan
from wafer.detector.processes import run_child
from wafer.detector.trainer import STATE
from wafer.detector.training import train_detector
from wafer.detector.worker import train_in_processes

SPY = """
import json, sys
from pathlib import Path
from wafer.detector.processes import child_process
from wafer.detector.trainer import WaferTrainer
from wafer.detector.ultralytics_adapter import RANK

class Spy(WaferTrainer):
    def _model_train(self):
        super()._model_train()
        shown = [image for image, seed in self.train_loader.sampler]
        maps = None if self.maps is None else self.maps.tolist()
        path = self.save_dir / f"rank{RANK}-epoch{self.epoch}.json"
        path.write_text(json.dumps([shown, maps]))

with child_process():
    Spy(overrides=json.loads(Path(sys.argv[1]).read_text())).train()
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training in one process."""
    root = tmp_path_factory.mktemp("ddp") / "w"
    workspace = generate_workspace(
        root, images=65, counts="balanced", size=96, difficulty="easy", seed=3, processes=1
    )
    return train_detector(
        workspace, img_weights=True, epochs=3, batch=16, imgsz=64, device="cpu"
    ).folder


def shared_run(alone: Path, folder: Path, *, epochs: int = 3) -> dict[str, object]:
    """Prepare the same training in another folder and return the trainer's arguments."""
    (folder / PLAN).write_text((alone / PLAN).read_text())
    arguments: dict[str, object] = yaml.safe_load((alone / "args.yaml").read_text())
    places = {"data": str(folder / PLAN), "save_dir": str(folder)}
    return {**arguments, **places, "epochs": epochs}


@pytest.mark.slow
def test_two_processes_share_one_draw_by_the_same_maps(alone: Path, tmp_path: Path) -> None:
    overrides = tmp_path / "overrides.json"
    overrides.write_text(json.dumps(shared_run(alone, tmp_path)))
    spy = tmp_path / "spy.py"
    spy.write_text(textwrap.dedent(SPY))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run_child([*launcher, "--nproc-per-node=2", str(spy), str(overrides)])

    plan = read_plan(alone / PLAN)
    counts = instance_counts([image.classes for image in plan.train], classes=len(plan.names))
    rows = read_draws(tmp_path / DRAWS)
    for epoch in range(3):
        shown, maps = zip(
            *(json.loads((tmp_path / f"rank{r}-epoch{epoch}.json").read_text()) for r in (0, 1)),
            strict=True,
        )
        assert maps[0] == maps[1]
        known = maps_after(rows, epoch=epoch)
        assert maps[0] == (None if known is None else known.tolist())
        whole = draw_epoch(
            len(counts), seed=0, epoch=epoch, probabilities=image_probabilities(counts, known)
        )
        together = [image for pair in zip(*shown, strict=True) for image in pair]
        assert together[: len(whole)] == whole.tolist()
        assert len(together) - len(whole) == len(whole) % 2


@pytest.mark.slow
def test_the_first_epoch_is_drawn_as_by_one_process_and_every_image_is_validated(
    alone: Path, tmp_path: Path
) -> None:
    train_in_processes(shared_run(alone, tmp_path, epochs=1), folder=tmp_path, world=2)
    single, double = read_draws(alone / DRAWS), read_draws(tmp_path / DRAWS)
    first = [(row.name, row.images, row.boxes) for row in single if row.epoch == 1]
    assert [(row.name, row.images, row.boxes) for row in double] == first
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert state["complete"]
    tensors = state["model"].values()
    assert all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())
    assert np.isfinite(state["best_fitness"])
