"""What cannot start, or fails, for a while: it costs that while alone."""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import wafer.service.again
import wafer.service.process
import wafer.service.web.fleet
import wafer.service.web.work
from wafer.datasets.errors import WeightsError
from wafer.inference.bundle import Bundle
from wafer.inference.engines.choosing import BACKENDS
from wafer.inference.registry import CURRENT
from wafer.inference.sources import ImageInput
from wafer.service.models import Served, passed
from wafer.service.process import ModelProcess
from wafer.service.web.fleet import Fleet
from wafer.service.web.metrics import Metrics
from wafer.service.web.refusals import Refused
from wafer.service.web.waiting import Answer, Waiting
from wafer.service.web.work import Work

Shot = Callable[..., bytes]
SECONDS = 60


def no_process(opened: object) -> Any:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test that hangs where it would fail."""

    async def bounded() -> None:
        async with asyncio.timeout(SECONDS):
            await test

    asyncio.run(bounded())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


@pytest.fixture
def bundles(tmp_path: Path, bundle_of: Callable[..., Bundle]) -> tuple[Bundle, Bundle]:
    """Return two, the second of which is promoted."""
    models = tmp_path / "models"
    found = bundle_of(models, gain=1.0), bundle_of(models, gain=0.9)
    (models / CURRENT).touch()
    return found


def served(bundle: Bundle) -> Served:
    return Served(bundle=bundle, backend=BACKENDS[0])


async def asked(waiting: Waiting, image: bytes) -> Answer:
    (job,) = waiting.put([ImageInput(Path("a"), "a", content=image)])
    return await job.answer


def test_a_process_that_cannot_be_started_is_a_model_that_cannot_be_opened(
    bundles: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wafer.service.process, "start_worker", no_process)
    process = ModelProcess(served(bundles[0]).opened, model="m")
    with pytest.raises(WeightsError, match=r"cannot be started \(.*temporarily unavailable\)"):
        process.ask(())
    assert process.starts == 0


@pytest.mark.slow
def test_a_process_that_cannot_be_replaced_at_once_is_replaced_later(
    bundles: tuple[Bundle, Bundle],
    shot: Shot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wafer.service.web.fleet, "PAUSE", 0.05)
    model = passed(bundles[0].folder, engine="onnxruntime")
    image = shot(220)

    async def test() -> None:
        waiting = Waiting(most=8, deadline=SECONDS)
        fleet = Fleet(model, waiting, processes=1, watch=lambda images: None)
        await fleet.start()
        before = await asked(waiting, image)
        with monkeypatch.context() as short:
            short.setattr(wafer.service.process, "start_worker", no_process)
            fleet._processes[0].kill()
            with pytest.raises(Refused, match="cannot answer now") as caught:
                await asked(waiting, image)
            assert (caught.value.status, caught.value.code) == (503, "model")
            assert not fleet.ready
        await until(lambda: fleet.ready)
        after = await asked(waiting, image)
        assert after.answered.row == before.answered.row
        assert after.answered.row.prediction is not None
        assert fleet.starts == 2
        await fleet.stop()

    run(test())


def test_a_fault_that_ends_a_lane_is_told_and_the_server_is_not_ready(
    bundles: tuple[Bundle, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ModelProcess, "ask", lambda self, items: [])

    def fail(images: int) -> None:
        raise ZeroDivisionError("planted")

    async def test() -> None:
        waiting = Waiting(most=8, deadline=SECONDS)
        fleet = Fleet(served(bundles[0]), waiting, processes=1, watch=fail)
        await fleet.start()
        assert fleet.ready
        (job,) = waiting.put([ImageInput(Path("a"), "a", content=b"")])
        await until(lambda: not fleet.ready)
        waiting.drop([job])
        await fleet.stop()

    run(test())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "planted"


class Following:
    """A server that follows what is promoted: the second bundle, of which the check fails."""

    def __init__(self, bundles: tuple[Bundle, Bundle], *, failures: list[Exception | None]) -> None:
        self.bundles = bundles
        self.looks = 0
        self.checks: list[float] = []
        self._failures = iter(failures)
        self.work = Work(
            served(bundles[0]),
            choose=self._choose,
            check=self._check,
            processes=1,
            deadline=1.0,
            queue=8,
            metrics=Metrics(),
        )

    def _choose(self) -> Path:
        self.looks += 1
        return self.bundles[1].folder

    def _check(self, folder: Path) -> Served:
        self.checks.append(time.monotonic())
        if (failure := next(self._failures)) is not None:
            raise failure
        return served(self.bundles[1])

    @property
    def changed(self) -> bool:
        return self.work.served.bundle == self.bundles[1]

    async def until(self, true: Callable[[], bool]) -> None:
        following = asyncio.create_task(self.work.follow())
        try:
            await until(lambda: true() or following.done())
            assert not following.done()
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Let processes start as they are told: one fault after the other, then well."""
    faults: list[Exception] = []

    async def start(fleet: Fleet) -> None:
        if faults:
            raise faults.pop(0)

    monkeypatch.setattr(Fleet, "start", start)
    monkeypatch.setattr(wafer.service.web.work, "LOOK", 0.005)
    monkeypatch.setattr(wafer.service.again, "LEAST_PAUSE", 0.05)
    monkeypatch.setattr(wafer.service.again, "MOST_PAUSE", 0.15)
    return faults


def test_a_bundle_that_fails_for_a_while_is_tried_again_with_growing_pauses(
    bundles: tuple[Bundle, Bundle], opening: list[Exception]
) -> None:
    opening.append(WeightsError("the model cannot be opened: its process SIGKILL"))
    memory = OSError(errno.ENOMEM, "Cannot allocate memory")
    following = Following(bundles, failures=[memory, memory, None, memory, None])
    run(following.until(lambda: following.changed))
    pauses = [b - a for a, b in pairwise(following.checks)]
    assert all(p >= least for p, least in zip(pauses, (0.05, 0.1, 0.15, 0.15), strict=True))
    assert following.work.refusal is None


def test_a_bundle_that_is_bad_is_looked_at_once(
    bundles: tuple[Bundle, Bundle], opening: list[Exception]
) -> None:
    bad = WeightsError("no engine gives its golden answers")
    following = Following(bundles, failures=[bad])
    run(following.until(lambda: following.looks > 50))
    assert len(following.checks) == 1
    assert following.work.refusal is not None
    assert following.work.refusal.reason == "no engine gives its golden answers"


def test_a_bad_bundle_that_is_promoted_again_is_looked_at_again(
    bundles: tuple[Bundle, Bundle], opening: list[Exception]
) -> None:
    bad = WeightsError("no engine gives its golden answers")
    following = Following(bundles, failures=[bad, None])

    def promoted_again() -> bool:
        if len(following.checks) == 1:
            os.utime(bundles[1].folder.parent / CURRENT, ns=(0, 0))
        return following.changed

    run(following.until(promoted_again))
    assert len(following.checks) == 2
    assert following.work.refusal is None
