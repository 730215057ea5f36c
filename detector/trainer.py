"""ultralytics' trainer over our records, with image weights and a training that can be killed."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
from numpy.typing import NDArray
from safetensors.torch import save

from wafer.datasets.errors import DataError, Fault, StorageError, TrainingError
from wafer.datasets.files import write_bytes, write_text
from wafer.detector.architecture import build_model, start_from
from wafer.detector.dataset import DetectionDataset
from wafer.detector.draws import (
    DRAWS,
    ClassDraw,
    count_draws,
    draws_figure,
    maps_after,
    read_draws,
    write_draws,
    write_figure,
)
from wafer.detector.image_weights import smooth_maps
from wafer.detector.loader import EpochLoader, EpochSampler, StridedSampler
from wafer.detector.plan import TrainingPlan, read_plan
from wafer.detector.processes import Progress
from wafer.detector.ultralytics_adapter import (
    RANK,
    WORLD_SIZE,
    DetectionModel,
    DetectionTrainer,
    ModelEMA,
    unwrap_model,
)
from wafer.inference.precision import use_cores
from wafer.weights.loading import DAMAGED

__all__ = ["BEST", "LAST", "STATE", "WaferTrainer", "read_state"]

log = logging.getLogger(__name__)

STATE = Path("weights", "state.pt")
"""What a killed training goes on from: tensors and numbers, loadable without pickle."""
BEST = Path("weights", "best.tensors")
LAST = Path("weights", "last.tensors")


def read_state(run: Path) -> dict[str, Any] | None:
    """Return what an unfinished training saved after its last epoch, or None.

    Raises:
        TrainingError: the file is damaged.
    """
    path = run / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise TrainingError(
            f"{path}: the state to go on from is damaged; remove the run folder {run} and start "
            "the same command again"
        ) from error
    return state


class WaferTrainer(DetectionTrainer):  # type: ignore[misc]
    """Train a YOLOv5 on the images that a training plan names.

    ``data`` is the path of the plan file instead of a data.yaml, so that the processes of a
    multi-GPU training find everything through the arguments that they are handed.
    """

    device: torch.device
    plan: TrainingPlan
    progress: Progress | None = None
    maps: NDArray[np.float64] | None = None
    draws: tuple[ClassDraw, ...] = ()
    batches_done = 0
    _oom_retries = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.device.type == "cpu":
            self.world_size = WORLD_SIZE if WORLD_SIZE > 1 else 0
            use_cores(share=max(WORLD_SIZE, 1))

    def _setup_ddp(self) -> None:
        """Join the other processes; ultralytics knows several processes on GPUs alone."""
        if self.device.type != "cpu":
            super()._setup_ddp()
            return
        dist.init_process_group("gloo", rank=RANK, world_size=self.world_size)

    def _setup_train(self) -> None:
        """Set up; ultralytics names a GPU to torch even where there is none."""
        parallel = torch.nn.parallel.DistributedDataParallel
        if self.device.type == "cpu" and self.world_size > 1:
            torch.nn.parallel.DistributedDataParallel = _DataParallelOnCpu  # type: ignore[misc, assignment]
        try:
            super()._setup_train()
        finally:
            torch.nn.parallel.DistributedDataParallel = parallel  # type: ignore[misc]

    def _do_train(self) -> None:
        """Train.

        Raises:
            TrainingError: the memory of the GPU is too small.
        """
        try:
            super()._do_train()
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error

    def _build_train_pipeline(self) -> None:
        """Build the loaders and the optimizer, once.

        ultralytics would come here again with half the batch where the first epoch finds no
        memory, and train another network than the one that ``run.json`` and the tables tell of.

        Raises:
            TrainingError: the memory of the GPU is too small.
        """
        if self._oom_retries:
            raise self._out_of_memory()
        super()._build_train_pipeline()

    def _out_of_memory(self) -> TrainingError:
        asked = self.args.nbs  # args.batch may be halved already
        return TrainingError(
            f"out of memory with --batch {asked}; give a smaller --batch, or free the GPU and "
            "start the same command again"
        )

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
        """Return the training or validation images of the plan.

        Raises:
            DataError: images that cannot be decoded, named together: those of val with those of
                train, which come first.
        """
        try:
            return self._decoded(mode, batch)
        except DataError as error:
            if mode != "train":
                raise
            raise DataError([*error.faults, *self._faults_of_val()]) from error

    def _faults_of_val(self) -> tuple[Fault, ...]:
        try:
            self._decoded("val", None)
        except DataError as error:
            return error.faults
        return ()

    def _decoded(self, mode: str, batch: int | None) -> DetectionDataset:
        return DetectionDataset(
            self.plan.train if mode == "train" else self.plan.val,
            data=self.data,
            image_size=self.args.imgsz,
            white_level=self.plan.white_level,
            hyperparameters=self.args,
            training=mode == "train",
            batch_size=batch or self.args.batch,
            cache=self.plan.cache,
        )

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> EpochLoader:
        """Return a loader whose epochs are drawn when they begin."""
        dataset = self.build_dataset(dataset_path, mode, batch_size)
        place = {"rank": max(RANK, 0), "world": max(self.world_size, 1)}
        sampler: EpochSampler | StridedSampler = StridedSampler(len(dataset), **place)
        if mode == "train":
            sampler = EpochSampler(
                dataset, seed=self.args.seed, mode=self.plan.img_weights, **place
            )
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
        if self.world_size > 1:  # validation ends on rank 0, which alone knows the maps
            box = [self.maps]
            dist.broadcast_object_list(box, 0)
            self.maps = box[0]
        self.train_loader.sampler.start_epoch(self.epoch, maps=self.maps)

    def validate(self) -> tuple[dict[str, float] | None, float | None]:
        """Validate, and keep the AP of each class for the next draw."""
        metrics, fitness = super().validate()
        if metrics is not None and self.plan.img_weights is not None:
            self._note_maps(np.array(self.validator.metrics.box.maps, np.float64))
        return metrics, fitness

    def _note_maps(self, measured: NDArray[np.float64]) -> None:
        self.maps = smooth_maps(self.maps, measured)
        sampler = self.train_loader.sampler
        self.draws += count_draws(
            sampler.drawn,
            sampler.counts,
            epoch=self.epoch + 1,
            names=self.plan.names,
            ap=measured,
            smoothed=self.maps,
        )

    def _handle_nan_recovery(self, epoch: int) -> bool:
        faulty = not bool(torch.isfinite(self.loss))
        if self.world_size > 1:
            found = torch.tensor(float(faulty), device=self.device)
            dist.all_reduce(found)
            faulty = bool(found)
        if not faulty and (self.fitness is None or np.isfinite(self.fitness)):
            return False
        saved = "no epoch was finished"
        if (self.save_dir / STATE).is_file():
            saved = f"the state after epoch {epoch} is in {self.save_dir / STATE}"
            if (self.save_dir / BEST).is_file():
                saved += f", the best weights so far in {self.save_dir / BEST}"
        raise TrainingError(
            f"the loss became NaN or infinite in epoch {epoch + 1}; {saved}. "
            "Lower --lr0, or look for damaged labels with `wafer evaluate --split train`"
        )

    def save_model(self) -> bool:
        """Save the best weights, then the state to go on from; each replaces its file at once.

        Raises:
            StorageError: the disk is full or fails; what was saved before is still there.
        """
        try:
            self._save_files()
        except OSError as error:
            kept = f"that of epoch {self.epoch} is kept" if self.epoch else "there is none yet"
            raise StorageError(
                f"{self.wdir}: the checkpoint of epoch {self.epoch + 1} could not be written "
                f"({error.strerror}); {kept}. Make room and start the same command again"
            ) from error
        return True

    def _save_files(self) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.ema.ema.state_dict().items()}
        if self.best_fitness == self.fitness:
            write_bytes(self.save_dir / BEST, save(tensors))
        if self.stop:
            write_bytes(self.save_dir / LAST, save(tensors))
        if self.draws:
            write_draws(self.draws, self.save_dir / DRAWS)
            if self.stop:
                picture = (self.save_dir / DRAWS).with_suffix(".png")
                write_figure(draws_figure(self.draws), picture)
        # In memory first: torch turns an error of the disk into one of its own.
        content = io.BytesIO()
        torch.save(self._state(), content)
        write_bytes(self.save_dir / STATE, content.getvalue())

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
        if state["scaler"]:  # empty after epochs on a CPU
            self.scaler.load_state_dict(state["scaler"])
        self.best_fitness = state["best_fitness"]
        self.stopper.__dict__.update(state["stopper"])
        self.start_epoch = state["epoch"] + 1
        drawn = read_draws(self.save_dir / DRAWS)
        self.draws = tuple(row for row in drawn if row.epoch <= self.start_epoch)
        self.maps = maps_after(self.draws, epoch=self.start_epoch)
        if RANK in {-1, 0}:
            write_text(self.csv, state["results"])
        log.info("going on after epoch %d of %d", self.start_epoch, self.epochs)

    def final_eval(self) -> None:
        """Leave the last validation to the run's end, which works on the saved best weights."""


class _DataParallelOnCpu(torch.nn.parallel.DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, device_ids: object = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
