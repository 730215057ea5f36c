"""The folder of training images is away: what serves the model goes on, what reads them says so."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from wafer.cli import app
from wafer.inference.registry import current_bundle
from wafer.service.audit import AUDIT, AuditLog
from wafer.service.keys import KEYS, read_keys

Run = Callable[..., Result]


@pytest.fixture
def run(fab: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return what runs a command in a workspace whose image share is not mounted."""
    monkeypatch.setenv("XDG_CACHE_HOME", fab.environment["XDG_CACHE_HOME"])
    monkeypatch.chdir(fab.root)
    away = fab.workspace.images.rename(fab.workspace.images.with_name("away"))
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    away.rename(fab.workspace.images)


@pytest.mark.parametrize("more", [[], ["--workspace", "."]])
def test_the_server_is_in_order(fab: Any, run: Run, more: list[str]) -> None:
    done = run("serve", "--check", "--engine", "onnxruntime", *more)
    assert (done.exit_code, done.stderr) == (0, f"{fab.first.label} on onnxruntime: in order\n")


def test_keys_can_be_added_and_revoked(fab: Any, run: Run) -> None:
    assert run("serve", "keys", "add", "mes-1").exit_code == 0
    assert run("serve", "keys", "revoke", "mes-1").exit_code == 0
    assert run("serve", "keys", "list").stdout.startswith("mes-1  any  ")
    assert [key.revoked is None for key in read_keys(fab.root / KEYS)] == [False]


def test_the_audit_log_can_be_read(fab: Any, run: Run) -> None:
    log = AuditLog(fab.root / AUDIT)
    answer = {"model_digest": fab.first.digest, "class": "spot", "decision": "auto"}
    log.append([{**answer, "confidence": 0.9}])
    log.close()
    assert run("audit-log", "verify").stdout.startswith("1 lines, whole")
    done = run("drift")
    assert done.exit_code == 0, done.output
    assert "too few" in done.stdout or "no reference" in done.stdout


def test_a_watched_folder_is_answered(run: Run, shot: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(shot(200))
    once = ["--once", "--settle", "0", "--engine", "onnxruntime"]
    done = run("watch", str(tmp_path / "in"), *once)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == "1 images answered, 0 broken, 0 copies"


def test_images_are_classified(run: Run, shot: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(shot(200))
    rows = tmp_path / "rows.csv"
    done = run("classify", str(tmp_path), "--output", str(rows), "--engine", "onnxruntime")
    assert done.exit_code == 0, done.output
    assert rows.read_text().splitlines()[1].startswith("a.png,")


def test_a_bundle_can_be_promoted_and_rolled_back(fab: Any, run: Run) -> None:
    assert run("promote", fab.second.digest[:12]).exit_code == 0
    assert current_bundle(fab.workspace.models) == fab.second.folder
    assert run("promote", "--rollback").exit_code == 0
    assert current_bundle(fab.workspace.models) == fab.first.folder


@pytest.mark.parametrize(
    "command",
    ["split", "train", "evaluate", "label-propagate", "review", "ledger verify", "ledger rebuild"],
)
def test_what_reads_the_images_says_that_they_are_away(fab: Any, run: Run, command: str) -> None:
    done = run(*command.split())
    assert (done.exit_code, done.stderr) == (
        1,
        f"wafer: {fab.root / 'wafer.toml'}: no folder {fab.workspace.images}; correct "
        "`images` or bring the folder back\n",
    )
