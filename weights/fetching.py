"""What ``wafer weights fetch`` does: ImageNet weights, from where their makers publish them.

Nothing else in wafer fetches a model. Makers name a file after the first eight digits of its
SHA-256; that is what a download is checked against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from wafer.datasets.errors import StorageError, WeightsError
from wafer.datasets.files import sha256_file, write_bytes
from wafer.weights.checkpoint import FIRST_WEIGHTS
from wafer.weights.library import weights_folder
from wafer.weights.loading import read_tensors
from wafer.weights.sealing import seal

__all__ = ["SOURCES", "Fetched", "Source", "fetch_weights", "source_named"]

CHUNK = 1 << 16
PATIENCE = (10, 60)
"""Seconds to wait for a connection, and for more of a file."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the first weights of a network are: ``size`` in MB, first digits of the SHA-256."""

    name: str
    url: str
    digest: str
    size: int
    licence: str

    @property
    def host(self) -> str:
        """Return the host that is asked."""
        return urlsplit(self.url).netloc


TORCH = "https://download.pytorch.org/models/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"

SOURCES = (
    # URLs and digests are those of torchvision 0.29 and timm 1.0; a test compares.
    Source(
        "inception_v3", f"{TORCH}inception_v3_google-0cc3c7bd.pth", "0cc3c7bd", 104, "BSD-3-Clause"
    ),
    Source("resnet50", f"{TORCH}resnet50-11ad3fa6.pth", "11ad3fa6", 98, "BSD-3-Clause"),
    Source(
        "efficientnet_b3", f"{TIMM}efficientnet_b3_ra2-cf984f9c.pth", "cf984f9c", 49, "Apache-2.0"
    ),
    Source(
        "efficientnet_b7",
        f"{TIMM}tf_efficientnet_b7_ra-6c08e654.pth",
        "6c08e654",
        266,
        "Apache-2.0",
    ),
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """First weights that are here now, and whether they were before."""

    path: Path
    before: bool


def source_named(name: str) -> Source:
    """Return the source of a network's first weights.

    Raises:
        WeightsError: there is none.
    """
    found = next((source for source in SOURCES if source.name == name), None)
    if found is None:
        known = ", ".join(source.name for source in SOURCES)
        raise WeightsError(f"nothing is fetched for {name!r}; choose one of {known}")
    return found


def fetch_weights(
    source: Source, *, confirm: Callable[[str], bool], progress: Progress | None = None
) -> Fetched:
    """Fetch first weights into the user's cache folder, where `wafer train` looks for them.

    What came of a download that was cut is kept, and the same call goes on with it. The file is
    read by torch's restricted loader and kept as safetensors. A damaged file of an earlier call is
    replaced.

    Args:
        source: one of ``SOURCES``.
        confirm: is told host, size and place before the network is used, and returns whether to.
        progress: called with the bytes that are there and their number.

    Raises:
        WeightsError: declined, no connection or a cut one, or another file than expected.
        StorageError: it cannot be written.
    """
    target = weights_folder() / f"{source.name}.safetensors"
    if _is_whole(target):
        return Fetched(target, before=True)
    text = (
        f"{source.name}: about {source.size} MB from {source.host} ({source.url}), "
        f"licence {source.licence}, to {target}"
    )
    if not confirm(text):
        raise WeightsError("nothing was fetched; say --yes, or answer with y")
    part = target.with_name(f".{source.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _download(source, part, progress)
        digest = sha256_file(part)
        if not digest.startswith(source.digest):
            part.unlink()
            raise WeightsError(
                f"{source.host} sent another file for {source.name}: its sha256 is {digest}, "
                f"expected {source.digest}...; nothing was kept"
            )
        write_bytes(target, _sealed(source, part, digest))
        part.unlink()
    except requests.RequestException as error:
        raise WeightsError(_no_answer(source, target, error)) from error
    except OSError as error:
        raise StorageError(
            f"{target.parent} cannot be written ({error.strerror or error}); make room and start "
            "the same command again"
        ) from error
    return Fetched(target, before=False)


def _is_whole(path: Path) -> bool:
    try:
        read_tensors(path)
    except WeightsError:
        return False
    return True


def _download(source: Source, part: Path, progress: Progress | None) -> None:
    """Bring a file to its end; what is there of it is not asked for again."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(source.url, stream=True, timeout=PATIENCE, headers=headers) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there, or too much: its digest will tell
        response.raise_for_status()
        goes_on = response.status_code == requests.codes.partial_content
        done = have if goes_on else 0
        stated = response.headers.get("Content-Length", "")
        total = done + int(stated) if stated.isdigit() else None
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        if total is not None and done < total:
            raise requests.ConnectionError(f"cut off after {done:,} of {total:,} bytes")


def _sealed(source: Source, part: Path, digest: str) -> bytes:
    tensors, _, _ = read_tensors(part, expected=digest)
    description = {
        "kind": FIRST_WEIGHTS,
        "architecture": source.name,
        "source_sha256": digest,
        "licence": source.licence,
        "provenance": source.url,
    }
    return seal(description, tensors)


def _no_answer(source: Source, target: Path, error: requests.RequestException) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, requests.HTTPError):
        return f"{source.host} does not give the weights of {source.name} ({reason}); try later"
    return (
        f"no whole file from {source.host} ({reason}); start the same command again to go on, or "
        f"fetch {source.url} elsewhere and put it there as {target.with_suffix('.pth')}"
    )
