"""Fetching first weights from a server on this machine: whole, cut, another file, and none."""

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from wafer.classifier.pretrained import first_weights
from wafer.cli import app
from wafer.datasets.errors import StorageError, WeightsError
from wafer.weights import fetching
from wafer.weights.fetching import SOURCES, Source, fetch_weights, source_named
from wafer.weights.library import list_weights, verify_weights
from wafer.weights.loading import read_tensors


def state_dict(value: float = 1.0) -> bytes:
    content = io.BytesIO()
    torch.save({"conv1.weight": torch.full((512, 3, 7, 7), value)}, content)
    return content.getvalue()


@dataclass
class Makers:
    """What the server has, how it fails, and what it was asked for."""

    content: bytes
    cut_after: int | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "wafer" / "weights"


@pytest.fixture
def makers() -> Makers:
    return Makers(state_dict())


@pytest.fixture
def source(makers: Makers) -> Iterator[Source]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            makers.asked.append(wanted)
            start = 0 if wanted is None else int(wanted.removeprefix("bytes=").removesuffix("-"))
            body = makers.content[start:]
            status = makers.status
            if status == 200 and wanted is not None:
                status = 206 if body else 416
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if makers.cut_after is None else body[: makers.cut_after])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Source(
        name="resnet50",
        url=f"http://127.0.0.1:{server.server_address[1]}/resnet50.pth",
        digest=hashlib.sha256(makers.content).hexdigest()[:8],
        size=98,
        licence="BSD-3-Clause",
    )
    server.shutdown()
    server.server_close()


def fetch(source: Source) -> fetching.Fetched:
    return fetch_weights(source, confirm=lambda text: True)


def test_the_file_is_where_a_training_looks_for_it(
    source: Source, makers: Makers, own_cache: Path
) -> None:
    told: list[str] = []
    seen: list[tuple[int, int | None]] = []
    done = fetch_weights(
        source,
        confirm=lambda text: not told.append(text),
        progress=lambda some, total: seen.append((some, total)),
    )
    assert (done.path, done.before) == (own_cache / "resnet50.safetensors", False)
    assert "about 98 MB from 127.0.0.1:" in told[0]
    assert seen[-1] == (len(makers.content), len(makers.content))
    tensors, _, _ = read_tensors(done.path)
    assert torch.equal(tensors["conv1.weight"], torch.ones(512, 3, 7, 7))
    assert first_weights("resnet50", "cached") == done.path
    assert [p.name for p in own_cache.iterdir()] == ["resnet50.safetensors"]
    assert verify_weights("resnet50").content == f"first weights: {source.url}"
    assert [row.architecture for row in list_weights() if row.path == done.path] == ["resnet50"]
    assert fetch(source).before
    assert len(makers.asked) == 1


def test_nothing_is_asked_for_without_a_yes(source: Source, makers: Makers) -> None:
    with pytest.raises(WeightsError, match="nothing was fetched; say --yes"):
        fetch_weights(source, confirm=lambda text: False)
    assert makers.asked == []


def test_a_cut_connection_is_gone_on_with(source: Source, makers: Makers, own_cache: Path) -> None:
    makers.cut_after = 200_000
    with pytest.raises(WeightsError, match=r"no whole file from 127.*resnet50\.pth") as caught:
        fetch(source)
    assert len(str(caught.value).splitlines()) == 1
    kept = (own_cache / ".resnet50.part").read_bytes()
    assert len(kept) >= 100_000
    assert kept == makers.content[: len(kept)]
    assert not (own_cache / "resnet50.safetensors").exists()
    makers.cut_after = None
    assert fetch(source).path.is_file()
    assert makers.asked == [None, f"bytes={len(kept)}-"]


def test_a_file_that_was_killed_when_it_was_whole_is_taken(
    source: Source, makers: Makers, own_cache: Path
) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / ".resnet50.part").write_bytes(makers.content)
    assert fetch(source).path.is_file()
    assert makers.asked == [f"bytes={len(makers.content)}-"]


def test_another_file_is_refused_and_not_kept(
    source: Source, makers: Makers, own_cache: Path
) -> None:
    makers.content = state_dict(2.0)
    digest = hashlib.sha256(makers.content).hexdigest()
    with pytest.raises(WeightsError, match=f"another file.*{digest}, expected {source.digest}"):
        fetch(source)
    assert list(own_cache.iterdir()) == []


def test_a_damaged_file_of_before_is_replaced(source: Source, own_cache: Path) -> None:
    path = fetch(source).path
    path.write_bytes(path.read_bytes()[:-9])
    assert not fetch(source).before
    read_tensors(path)


def test_a_refusal_and_no_connection_are_one_line(source: Source, makers: Makers) -> None:
    makers.status = 503
    with pytest.raises(WeightsError, match=r"weights of resnet50 \(503") as caught:
        fetch(source)
    assert len(str(caught.value).splitlines()) == 1
    closed = replace(source, url="http://127.0.0.1:9/resnet50.pth")
    with pytest.raises(WeightsError, match=r"no whole file from 127\.0\.0\.1:9") as caught:
        fetch(closed)
    assert len(str(caught.value).splitlines()) == 1


def test_a_full_disk_says_so(source: Source, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / ".resnet50.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)"):
        fetch(source)
    assert not (own_cache / "resnet50.safetensors").exists()


def test_the_command_asks_first(
    source: Source, makers: Makers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SOURCES", (source,))
    refused = CliRunner().invoke(app, ["weights", "fetch", "resnet50"], input="n\n")
    assert refused.exit_code == 1
    assert "about 98 MB from 127.0.0.1" in refused.stderr
    assert makers.asked == []
    done = CliRunner().invoke(app, ["weights", "fetch", "resnet50", "--yes"])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).is_file()
    with pytest.raises(WeightsError, match="nothing is fetched for 'vgg'; choose one of resnet50"):
        source_named("vgg")


def test_urls_and_digests_are_those_of_the_libraries() -> None:
    from timm.models import get_pretrained_cfg
    from torchvision.models import Inception_V3_Weights, ResNet50_Weights

    known = {
        "inception_v3": Inception_V3_Weights.IMAGENET1K_V1.url,
        "resnet50": ResNet50_Weights.IMAGENET1K_V2.url,
    }
    for name, theirs in (
        ("efficientnet_b3", "efficientnet_b3.ra2_in1k"),
        ("efficientnet_b7", "tf_efficientnet_b7.ra_in1k"),
    ):
        known[name] = get_pretrained_cfg(theirs).url
    assert {source.name: source.url for source in SOURCES} == known
    command = typer.main.get_command(app).commands["weights"].commands["fetch"]
    (argument,) = (p for p in command.params if p.name == "name")
    assert set(argument.type.choices) == set(known)
    for source in SOURCES:
        assert source.url.endswith(f"-{source.digest}.pth")
