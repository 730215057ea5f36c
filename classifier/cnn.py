"""Convolutional networks as classifiers: training, first weights, and at work."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from wafer.classifier.batches import augmented, drawn_images, stratified_batches
from wafer.classifier.course import Course, Epoch
from wafer.classifier.cutmix import cutmix
from wafer.classifier.ghosts import split_norms
from wafer.classifier.models import STATE, Features, Images, Logits, Settings, Task
from wafer.datasets.errors import TrainingError, WeightsError
from wafer.datasets.files import atomic_file
from wafer.inference.devices import torch_device
from wafer.inference.precision import Precision, faster_precision, use_cores
from wafer.weights.loading import DAMAGED, Tensors, read_tensors

__all__ = [
    "Backbone",
    "Schedule",
    "TorchClassifier",
    "fit_cnn",
    "last_epoch",
    "one_cycle",
    "read_cnn",
    "steps_of_ten",
]

AUXILIARY = 0.4
"""Weight of the loss of an auxiliary head. Source: Szegedy et al., 2015, section 5."""
PROBE_BATCH = 8
WORTH_A_PROBE = 500
"""Images that a training shows at least; the probe itself takes as long as some eighty."""
VALIDATED_AT_ONCE = 64

Floats3 = tuple[float, float, float]
Optimizer = torch.optim.Optimizer
Scheduler = torch.optim.lr_scheduler.LRScheduler


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network of torch for three channels, untrained.

    ``body`` maps normalised images, float (N, 3, size, size), to logits (N, classes), in training
    also to a tuple with those of an auxiliary head. ``mean`` and ``std`` normalise channels of 0 to
    1, as the ImageNet weights of the network want it; unless said otherwise by the mean and spread
    of ImageNet. ``head`` are first parts of the names of
    tensors that first weights may lack; ``rename`` gives those of a file, in the order of the file,
    the names of ``body``, which it is given in their order.
    """

    body: torch.nn.Module
    head: tuple[str, ...]
    mean: Floats3 = (0.485, 0.456, 0.406)
    std: Floats3 = (0.229, 0.224, 0.225)
    rename: Callable[[Tensors, Sequence[str]], Tensors] = lambda tensors, _: tensors


class Build(Protocol):
    """Makes the network for so many classes."""

    def __call__(self, *, classes: int) -> Backbone:
        """Return the network with random weights."""
        ...


Schedule = Callable[[list[torch.nn.Parameter], Settings, int], tuple[Optimizer, Scheduler]]
"""Makes the optimizer, and what changes its rate after every step, for so many steps an epoch."""


def steps_of_ten(
    parameters: list[torch.nn.Parameter], settings: Settings, steps: int
) -> tuple[Optimizer, Scheduler]:
    """Return the paper's: Adam, a tenth of the rate every ten epochs."""
    adam = torch.optim.Adam(parameters, lr=settings.learning_rate)
    return adam, torch.optim.lr_scheduler.StepLR(adam, 10 * steps, gamma=0.1)


def one_cycle(
    parameters: list[torch.nn.Parameter], settings: Settings, steps: int
) -> tuple[Optimizer, Scheduler]:
    """Return AdamW whose rate rises over a fifth of the training and then falls."""
    adam = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.01)
    total = max(6, settings.epochs * steps)  # of five steps the rise would have none: 0 / 0
    return adam, torch.optim.lr_scheduler.OneCycleLR(
        adam, settings.learning_rate, total_steps=total, pct_start=0.2
    )


class TorchClassifier(torch.nn.Module):
    """A backbone from pixels to logits; its training pass is in bfloat16 where asked."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.body = backbone.body
        self.precision: Precision = "float32"
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            buffer = torch.tensor(values).view(1, 3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits, and those of an auxiliary head where there is one.

        Args:
            images: uint8, grey (N, size, size) or RGB (N, size, size, 3).
        """
        three = images.unsqueeze(3).expand(-1, -1, -1, 3) if images.ndim == 3 else images
        # channels are last in memory, as the CPU is fastest with them
        pixels = (three.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        narrow = self.training and self.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=narrow):
            found = self.body(pixels)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(output.float() for output in outputs)

    def logits(self, images: Images, /) -> Logits:
        """Return one number for each class, shape (N, classes)."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.mean.device)
        with torch.inference_mode():
            found = self.eval()(pixels)[0]
        return np.asarray(found.cpu().numpy(), np.float64)

    def look(self, images: Images, /) -> tuple[Logits, Features]:
        """Return the same and what the last layer was given, shape (N, features)."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.mean.device)
        with torch.inference_mode():
            logits, features = self.eval().seen(pixels)
        return np.asarray(logits.cpu().numpy(), np.float64), features.cpu().numpy()

    def seen(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, and what the last layer was given, shape (N, features)."""
        *_, last = (part for part in self.body.modules() if isinstance(part, torch.nn.Linear))
        given: list[torch.Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            logits = self(images)[0]
        finally:
            handle.remove()
        return logits, given[0].float()


def fit_cnn(task: Task, build: Build, schedule: Schedule, *, name: str) -> Tensors:
    """Train all layers of a network; the epoch with the lowest loss on validation is kept.

    After every epoch all that a training goes on from is in ``STATE`` of the run folder.

    Args:
        task: the training.
        build: makes the network.
        schedule: makes the optimizer.
        name: of the model.

    Raises:
        DivergedError: a loss is no number.
        TrainingError: the state of a training that was killed is damaged.
        WeightsError: first weights that do not fit.
    """
    use_cores()
    torch.manual_seed(task.seed)
    backbone = build(classes=task.classes)
    if task.start is not None:
        start_from(backbone, task.start)
    if task.settings.ghost_batch:
        split_norms(backbone.body, task.settings.ghost_batch)
    model = _placed(TorchClassifier(backbone), torch_device(task.device))
    batches = len(_batches(task, np.random.default_rng(0)))
    optimizer, scheduler = schedule(list(model.parameters()), task.settings, batches)
    course = Course(task.folder, task.settings.patience)
    best = _go_on(task, model, optimizer, scheduler, course)
    seen = len(task.train) * task.settings.epochs
    if best is None and task.device == "cpu" and seen >= WORTH_A_PROBE:
        model.precision = _fastest_precision(model, name, task)
    for epoch in range(len(course.epochs) + 1, task.settings.epochs + 1):
        if course.over:
            break
        loss = _train_epoch(model, optimizer, scheduler, task, epoch)
        if course.add_logits(loss, _validate(model, task), task.val.labels) or best is None:
            best = {k: v.detach().cpu().clone() for k, v in model.body.state_dict().items()}
        _save(task, model, optimizer, scheduler, course, best)
    assert best is not None  # there is at least one epoch
    return best


def last_epoch(task: Task) -> Tensors:
    """Return the network after the last epoch of a training that `fit_cnn` has brought to its end.

    It is read from ``STATE`` of the run folder.
    """
    model = _read_state(task)["model"]
    return {name.removeprefix("body."): tensor.cpu() for name, tensor in model.items()}


def read_cnn(tensors: Tensors, build: Build, *, classes: int, device: str) -> TorchClassifier:
    """Return the network of a model file, ready to answer.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    with torch.device("meta"):  # no random weights that would be thrown away
        backbone = build(classes=classes)
    try:
        backbone.body.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise WeightsError(f"its tensors do not fit ({reason}); train it again") from error
    return _placed(TorchClassifier(backbone).eval(), torch_device(device))


def start_from(backbone: Backbone, path: Path) -> None:
    """Fill a network with first weights, all but its head.

    Raises:
        WeightsError: the file is damaged or of another architecture.
    """
    ours = backbone.body.state_dict()
    given = backbone.rename(read_tensors(path)[0], list(ours))
    fitting = {k: v for k, v in given.items() if k in ours and v.shape == ours[k].shape}
    missing = [k for k in ours if k not in fitting and not _may_lack(k, backbone)]
    if missing:
        raise WeightsError(
            f"{path}: {len(fitting)} of {len(ours)} tensors fit, {missing[0]} does not; give "
            "ImageNet weights of the same model, as a state dict of timm or torchvision"
        )
    backbone.body.load_state_dict(fitting, strict=False)


def _placed(model: TorchClassifier, device: torch.device) -> TorchClassifier:
    return model.to(device).to(memory_format=torch.channels_last)


def _may_lack(name: str, backbone: Backbone) -> bool:
    return name.startswith(backbone.head) or name.endswith("num_batches_tracked")


def _train_epoch(
    model: TorchClassifier, optimizer: Optimizer, scheduler: Scheduler, task: Task, epoch: int
) -> float:
    """Return the mean loss; what is drawn depends on the seed and the epoch alone."""
    random = np.random.default_rng((task.seed, epoch))
    torch.manual_seed(int(random.integers(2**31)))  # of dropout
    batches = _batches(task, random)
    model.train()
    total, shown = 0.0, 0
    for number, chosen in enumerate(batches, 1):
        images, truth = _step(task, chosen, random)
        found = model(torch.from_numpy(images).to(task.device))
        loss = _loss(found, torch.from_numpy(truth).to(task.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        total += float(loss.detach()) * len(chosen)
        shown += len(chosen)
        if task.progress is not None:
            task.progress(epoch, task.settings.epochs, number, len(batches))
    return total / shown


def _batches(task: Task, random: np.random.Generator) -> list[NDArray[np.int64]]:
    labels, settings = task.train.labels, task.settings
    drawn = drawn_images(labels, sampler=settings.sampler, random=random)
    batches = stratified_batches(labels[drawn], batch=settings.batch, random=random)
    return [drawn[batch] for batch in batches]


def _step(
    task: Task, chosen: NDArray[np.int64], random: np.random.Generator
) -> tuple[Images, NDArray[np.int64] | NDArray[np.float32]]:
    """Return the images of a step as they are shown, and their labels or shares of classes."""
    train = task.train
    pixels, labels, whole = train.pixels[chosen], train.labels[chosen], train.whole_image[chosen]
    still = bool(train.whole_image.any())
    if not task.settings.cutmix:
        return augmented(pixels, still=still, random=random), labels
    mixed, shares = cutmix(
        pixels,
        np.eye(task.classes, dtype=np.float32)[labels],
        [train.boxes[position] for position in chosen],
        whole,
        probability=task.settings.cutmix,
        random=random,
    )
    return augmented(mixed, still=still, random=random), shares


def _loss(outputs: Sequence[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
    main, *auxiliary = (torch.nn.functional.cross_entropy(o, truth) for o in outputs)
    return main + AUXILIARY * sum(auxiliary)


def _validate(model: TorchClassifier, task: Task) -> Logits:
    pixels = task.val.pixels
    starts = range(0, len(pixels), VALIDATED_AT_ONCE)
    return np.concatenate([model.logits(pixels[i : i + VALIDATED_AT_ONCE]) for i in starts])


def _fastest_precision(model: TorchClassifier, name: str, task: Task) -> Precision:
    """Return the faster precision of a step; the model and the random numbers stay as they were."""
    pixels = np.resize(task.train.pixels[:1], (PROBE_BATCH, *task.train.pixels.shape[1:]))
    images, labels = torch.from_numpy(pixels), torch.zeros(PROBE_BATCH, dtype=torch.long)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def seconds(precision: Precision) -> float:
        model.train().precision = precision
        start = time.perf_counter()
        _loss(model(images), labels).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    shape = "x".join(map(str, pixels.shape))
    with torch.random.fork_rng(devices=()):
        faster = faster_precision(f"{name} {shape}", seconds)
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before)
    return faster


def _save(
    task: Task,
    model: TorchClassifier,
    optimizer: Optimizer,
    scheduler: Scheduler,
    course: Course,
    best: Tensors,
) -> None:
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "precision": model.precision,
        "epochs": [asdict(epoch) for epoch in course.epochs],
        "best": best,
    }
    with atomic_file(task.folder / STATE) as handle:
        torch.save(content, handle)


def _go_on(
    task: Task,
    model: TorchClassifier,
    optimizer: Optimizer,
    scheduler: Scheduler,
    course: Course,
) -> Tensors | None:
    """Return the best weights so far of a training that was killed, all else as it was then."""
    if not (task.folder / STATE).is_file():
        return None
    state = _read_state(task)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    model.precision = state["precision"]
    course.epochs.extend(Epoch(**epoch) for epoch in state["epochs"])
    best: Tensors = {k: v.cpu() for k, v in state["best"].items()}
    return best


def _read_state(task: Task) -> dict[str, Any]:
    path = task.folder / STATE
    with path.open("rb") as handle:
        try:
            state: dict[str, Any] = torch.load(handle, map_location=task.device, weights_only=True)
        except (pickle.UnpicklingError, *DAMAGED) as error:
            raise TrainingError(
                f"{path} is damaged; remove it, and the same command begins this training anew"
            ) from error
    return state
