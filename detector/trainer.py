"""ultralytics' trainer over our records, with image weights and a training that can be killed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray
from safetensors.torch import save

from wafer.datasets.errors import TrainingError
from wafer.datasets.files import atomic_file, write_bytes, write_text
from wafer.detector.architecture import build_model, start_from
from wafer.detector.dataset import DetectionDataset
from wafer.detector.loader import EpochLoader, EpochSampler
from wafer.detector.plan import TrainingPlan, read_plan
from wafer.detector.ultralytics_adapter import (
    DetectionModel,
    DetectionTrainer,
    ModelEMA,
    unwrap_model,
)

__all__ = ["BEST", "LAST", "STATE", "Progress", "WaferTrainer", "read_state"]

log = logging.getLogger(__name__)

STATE = Path("weights", "state.pt")
"""What a killed training goes on from: tensors and numbers, loadable without pickle."""
BEST = Path("weights", "best.tensors")
LAST = Path("weights", "last.tensors")

Progress = Callable[[int, int, int, int], None]
"""Called after each batch with epoch, epochs, batch, batches; epoch and batch count from 1."""


def read_state(run: Path) -> dict[str, Any] | None:
    """Return what an unfinished training saved after its last epoch, or None."""
    path = run / STATE
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class WaferTrainer(DetectionTrainer):  # type: ignore[misc]
    """Train a YOLOv5 on the images that a training plan names.

    ``data`` is the path of the plan file instead of a data.yaml, so that the processes of a
    multi-GPU training find everything through the arguments that ultralytics hands them.
    """

    plan: TrainingPlan
    progress: Progress | None = None
    maps: NDArray[np.float64] | None = None
    batches_done = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.device.type == "cpu":  # ultralytics leaves one core idle
            torch.set_num_threads(len(os.sched_getaffinity(0)))

    def get_dataset(self) -> dict[str, Any]:
        """Return names and channels of the plan; the images themselves stay records."""
        self.plan = read_plan(Path(self.args.data))
        return {
            "train": "train",
            "val": "val",
            "nc": len(self.plan.names),
            "names": dict(enumerate(self.plan.names)),
            "channels": self.plan.channels,
        }

    def setup_model(self) -> None:
        """Build the model of the plan, with its first weights."""
        self.model = self.get_model()
        if self.device.type == "cpu":
            self.model.precision = self.plan.precision
            self.model = self.model.to(memory_format=torch.channels_last)

    def get_model(
        self, cfg: Any = None, weights: Any = None, verbose: bool = False
    ) -> DetectionModel:
        """Return the model of the plan; the arguments of ultralytics are not used."""
        plan = self.plan
        model = build_model(plan.architecture, names=plan.names, channels=plan.channels)
        if plan.start is not None:
            start_from(model, plan.start)
        return model

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> DetectionDataset:
        """Return the training or validation images of the plan."""
        return DetectionDataset(
            self.plan.train if mode == "train" else self.plan.val,
            data=self.data,
            image_size=self.args.imgsz,
            white_level=self.plan.white_level,
            hyperparameters=self.args,
            training=mode == "train",
            batch_size=batch or self.args.batch,
        )

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> EpochLoader:
        """Return a loader whose epochs are drawn when they begin."""
        dataset = self.build_dataset(dataset_path, mode, batch_size)
        sampler = None
        if mode == "train":
            sampler = EpochSampler(dataset, seed=self.args.seed, img_weights=self.plan.img_weights)
        return EpochLoader(
            dataset,
            batch_size=min(batch_size, len(dataset)),
            sampler=sampler,
            num_workers=self.args.workers,
            collate_fn=DetectionDataset.collate_fn,
            pin_memory=self.device.type == "cuda",
        )

    def run_callbacks(self, event: str) -> None:
        """Run ultralytics' callbacks and report progress after each batch."""
        super().run_callbacks(event)
        if event == "on_train_batch_end" and self.progress is not None:
            self.batches_done += 1
            self.progress(self.epoch + 1, self.epochs, self.batches_done, len(self.train_loader))

    def _model_train(self) -> None:
        super()._model_train()
        self.batches_done = 0
        self.train_loader.sampler.start_epoch(self.epoch, maps=self.maps)

    def validate(self) -> tuple[dict[str, float], float]:
        """Validate, and keep the AP of each class for the next draw."""
        metrics, fitness = super().validate()
        self.maps = np.array(self.validator.metrics.box.maps, np.float64)
        return metrics, fitness

    def _handle_nan_recovery(self, epoch: int) -> bool:
        if bool(torch.isfinite(self.loss)) and bool(np.isfinite(self.fitness)):
            return False
        saved = f"the last good state is in {self.wdir}" if epoch else "no epoch was finished"
        raise TrainingError(
            f"the loss became NaN or infinite in epoch {epoch + 1}; {saved}. "
            "Lower --lr0, or look for damaged labels with `wafer evaluate --split train`"
        )

    def save_model(self) -> bool:
        """Save the best weights, then the state to go on from; each replaces its file at once."""
        tensors = {name: tensor.contiguous() for name, tensor in self.ema.ema.state_dict().items()}
        if self.best_fitness == self.fitness:
            write_bytes(self.save_dir / BEST, save(tensors))
        if self.stop:
            write_bytes(self.save_dir / LAST, save(tensors))
        with atomic_file(self.save_dir / STATE) as handle:
            torch.save(self._state(), handle)
        return True

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "complete": bool(self.stop),
            "best_fitness": float(self.best_fitness),
            "stopper": {
                "best_fitness": float(self.stopper.best_fitness),
                "best_epoch": int(self.stopper.best_epoch),
            },
            "model": unwrap_model(self.model).state_dict(),
            "ema": self.ema.ema.state_dict(),
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "maps": None if self.maps is None else torch.from_numpy(self.maps),
            "results": self.csv.read_text(encoding="utf-8"),
        }

    def resume_training(self, ckpt: Any) -> None:
        """Go on after the last saved epoch, where there is one."""
        state = read_state(self.save_dir)
        if state is None:
            return
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema = ModelEMA(self.model)
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best_fitness = state["best_fitness"]
        self.stopper.__dict__.update(state["stopper"])
        self.maps = None if state["maps"] is None else state["maps"].numpy()
        write_text(self.csv, state["results"])
        self.start_epoch = state["epoch"] + 1
        log.info("going on after epoch %d of %d", self.start_epoch, self.epochs)

    def final_eval(self) -> None:
        """Leave the last validation to the run's end, which works on the saved best weights."""
