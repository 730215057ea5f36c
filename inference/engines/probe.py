"""Whether an engine gives the golden answers here: asked in a child process, and remembered.

A runtime may end the whole process with a signal on a processor it was not made for. In a child
that is one line in the log.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from wafer.datasets.errors import WaferError
from wafer.datasets.files import cache_folder, write_text
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.backend import Backend
from wafer.inference.processor import processor_digest

__all__ = ["Verdict", "answer_probe", "probe"]

MARK = "wafer-verdict "
PATIENCE = 300.0
"""Seconds; a large model on a busy machine takes tens of them to compile."""
TIMINGS = 3
# How a runtime ends on a processor it was not made for. Others, such as SIGKILL for a lack of
# memory, say nothing about the next time.
LASTING = {signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came out: why an engine may not be used (empty: it may), and its seconds an image."""

    refusal: str = ""
    seconds: float = 0.0


def probe(backend: Backend, bundle: Bundle, *, batch: int) -> Verdict:
    """Return whether an engine gives a bundle's golden answers on this processor.

    What was found out is remembered in the user's cache folder by bundle, processor, version of
    the runtime and batch.

    Args:
        backend: the engine.
        bundle: the model.
        batch: images a call.
    """
    precision = bundle.description.precision
    if precision not in backend.precisions:
        return Verdict(refusal=f"does not compute in {precision}")
    if backend.version is None:
        return Verdict(refusal=f"the package {backend.distribution} is not installed")
    path = _memory(backend, bundle, batch)
    with suppress(OSError, ValueError, TypeError):
        return Verdict(**json.loads(path.read_text(encoding="utf-8")))
    verdict, lasting = _asked(backend, bundle, batch)
    if lasting:
        with suppress(OSError):  # a cache that cannot be written costs only time
            write_text(path, json.dumps(asdict(verdict)) + "\n")
    return verdict


def answer_probe(backend: Backend) -> None:
    """Be the child: probe an engine with the bundle and batch that the command line names."""
    bundle, batch = open_bundle(Path(sys.argv[1])), int(sys.argv[2])
    try:
        verdict = _judged(backend, bundle, batch)
    except WaferError as error:
        verdict = Verdict(refusal=str(error))
    sys.stdout.write(f"\n{MARK}{json.dumps(asdict(verdict))}\n")


def _judged(backend: Backend, bundle: Bundle, batch: int) -> Verdict:
    golden = bundle.golden()
    with closing(backend.open(bundle, batch)) as engine:
        answer = engine.infer(golden.images)
        if (wrong := golden.difference(answer, bundle.description.tolerance)) is not None:
            return Verdict(refusal=wrong)
        seconds = []
        for _ in range(TIMINGS):
            start = time.process_time()  # of a processor, whatever else the machine does meanwhile
            engine.infer(golden.images)
            seconds.append(time.process_time() - start)
    return Verdict(seconds=min(seconds) / len(golden))


def _asked(backend: Backend, bundle: Bundle, batch: int) -> tuple[Verdict, bool]:
    """Return the verdict of a child process, and whether it will be the same next time."""
    command = [sys.executable, "-P", "-m", backend.module, str(bundle.folder), str(batch)]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict(refusal=f"no answer in {PATIENCE:.0f} s"), False
    lines = child.stdout.decode("utf-8", "replace").splitlines()
    found = next((line for line in reversed(lines) if line.startswith(MARK)), None)
    if child.returncode == 0 and found is not None:
        return Verdict(**json.loads(found.removeprefix(MARK))), True
    if child.returncode < 0:
        ended = signal.Signals(-child.returncode)
        return Verdict(refusal=f"it ends the process with {ended.name}"), ended in LASTING
    said = child.stderr.decode("utf-8", "replace").strip().splitlines()
    how = f"exit code {child.returncode}" + (f": {said[-1]}" if said else "")
    return Verdict(refusal=f"it fails with {how}"), False


def _memory(backend: Backend, bundle: Bundle, batch: int) -> Path:
    facts = [bundle.digest, processor_digest(), backend.name, backend.version, batch]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return cache_folder() / "engines" / f"{digest}.json"
