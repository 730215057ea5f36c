"""Keys are kept as digests, and a file of them never opens to everybody by mistake."""

import json
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

import wafer.service.keys
from wafer.cli import app
from wafer.datasets.errors import DataError, WaferError
from wafer.service.keys import Key, KeyRing, add_key, check_keys_file, read_keys, revoke_key
from wafer.service.web.rates import Rates
from wafer.service.web.server import plan_server

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_shown_once_and_found_again(path: Path) -> None:
    first, second = add_key(path, "mes-1"), add_key(path, "tool.7", rate=2.5)
    assert first != second
    assert len(first) > 40
    text = path.read_text()
    assert first not in text
    assert second not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = KeyRing(path)
    assert ring.wanted
    found = [ring.find(given) for given in (first, second)]
    assert [(key.name, key.rate) for key in found if key] == [("mes-1", None), ("tool.7", 2.5)]
    for given in ("", first[:-1], first + "x", first.upper(), "\u00e4", "\udcff", "mes-1"):
        assert ring.find(given) is None


def test_a_revoked_key_opens_nothing_more_and_leaves_no_open_door(path: Path) -> None:
    key = add_key(path, "mes-1")
    ring = KeyRing(path)
    assert ring.find(key) is not None
    revoke_key(path, "mes-1")
    assert ring.find(key) is None
    assert ring.wanted
    assert KeyRing(path).wanted
    assert [key.revoked is None for key in read_keys(path)] == [False]
    with pytest.raises(WaferError, match="no key 'mes-1' in use"):
        revoke_key(path, "mes-1")
    with pytest.raises(WaferError, match="perhaps a revoked one"):
        add_key(path, "mes-1")


def test_keys_that_come_or_go_while_a_server_runs_are_heeded(path: Path) -> None:
    ring = KeyRing(path)
    assert not ring.wanted
    key = add_key(path, "mes-1")
    assert ring.wanted
    assert ring.find(key) is not None
    path.unlink()
    assert ring.wanted
    assert ring.find(key) is None


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"name": "a"}]}', "\x00"],
)
def test_a_damaged_file_opens_for_nobody(path: Path, content: str) -> None:
    key = add_key(path, "mes-1")
    ring = KeyRing(path)
    path.write_text(content)
    assert ring.wanted
    assert ring.find(key) is None
    with pytest.raises(DataError, match=r"keys\.json"):
        KeyRing(path)
    with pytest.raises(DataError, match="bring back a copy"):
        add_key(path, "other")
    assert path.read_text() == content


def complaints(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    return [vars(record)["fields"] for record in caplog.records]


def test_a_file_that_cannot_be_read_is_told_once_and_read_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = add_key(path, "mes-1")
    ring = KeyRing(path)
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    assert [ring.find(key) for _ in range(3)] == [None] * 3
    assert ring.wanted
    (told,) = complaints(caplog)
    assert (told["file"], "Is a directory" in told["error"]) == (str(path), True)
    path.rmdir()
    aside.rename(path)
    assert ring.find(key) is not None
    path.unlink()
    assert [ring.find(key) for _ in range(3)] == [None] * 3
    assert complaints(caplog)[1:] == [{"file": str(path), "error": "no such file"}]


def test_what_could_not_be_read_once_needs_no_change_to_be_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_key(path, "mes-1")
    ring = KeyRing(path)
    key = add_key(path, "mes-2")

    def fail(path: Path) -> tuple[Key, ...]:
        raise OSError(24, "Too many open files", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(wafer.service.keys, "read_keys", fail)
        assert ring.find(key) is None
    found = ring.find(key)
    assert found is not None
    assert found.name == "mes-2"


def test_a_named_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(WaferError, match=r"keys\.json: no such file; `wafer serve keys add NAME"):
        plan_server(workspace=None, keys=path)


def test_a_file_that_is_gone_is_refused_and_one_that_never_was_is_not(path: Path) -> None:
    with pytest.raises(WaferError, match="no key 'mes-1' in use"):
        revoke_key(path, "mes-1")
    check_keys_file(path, named=False)
    add_key(path, "mes-1")
    check_keys_file(path, named=False)
    path.unlink()
    with pytest.raises(WaferError, match=r"is gone.* or remove \.keys\.json\.lock"):
        check_keys_file(path, named=False)
    (path.parent / ".keys.json.lock").unlink()
    check_keys_file(path, named=False)
    path.symlink_to("moved")
    with pytest.raises(WaferError, match="is gone"):
        check_keys_file(path, named=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_adds_stays_with_the_service(path: Path) -> None:
    lock = path.with_name(".keys.json.lock")
    os.chown(path.parent, NOBODY, NOBODY)
    add_key(path, "mes-1")
    assert [(p.stat().st_uid, p.stat().st_gid) for p in (path, lock)] == [(NOBODY, NOBODY)] * 2
    os.chown(path.parent, 0, 0)
    add_key(path, "mes-2")
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (NOBODY, 0o600)
    os.chown(path, 0, 0)
    revoke_key(path, "mes-2")
    assert path.stat().st_uid == 0


def test_a_link_in_place_of_the_lock_is_not_followed_to_a_new_file(path: Path) -> None:
    path.with_name(".keys.json.lock").symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        add_key(path, "mes-1")
    assert not path.with_name("elsewhere").exists()


@pytest.mark.parametrize("rate", ["inf", "nan", "0", "-1"])
def test_a_rate_that_is_none_is_refused_and_the_file_stays_sound(path: Path, rate: str) -> None:
    add_key(path, "mes-1")
    with pytest.raises(WaferError, match=rf"a rate of {rate}: name requests a second, above 0"):
        add_key(path, "tool", rate=float(rate))
    given = ["serve", "keys", "add", "tool", "--rate", rate, "--keys", str(path)]
    assert CliRunner().invoke(app, given).exit_code != 0
    assert [key.name for key in read_keys(path)] == ["mes-1"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "a\n", "\u00e4"])
def test_a_name_that_could_not_stand_in_a_log_is_refused(path: Path, name: str) -> None:
    with pytest.raises(WaferError, match="a name has up to 64"):
        add_key(path, name)
    assert not path.exists()


def test_the_file_says_no_more_than_it_must(path: Path) -> None:
    add_key(path, "mes-1", rate=5.0)
    (record,) = json.loads(path.read_text())["keys"]
    assert set(record) == {"name", "sha256", "rate", "created", "revoked"}


def test_a_rate_lets_a_seconds_worth_in_at_once_and_then_as_it_fills() -> None:
    clock = [100.0]
    rates = Rates(lambda: clock[0])
    assert [rates.wait("a", 3.0) for _ in range(5)] == [0, 0, 0, 1, 1]
    assert rates.wait("b", 3.0) == 0
    clock[0] += 0.34
    assert [rates.wait("a", 3.0) for _ in range(2)] == [0, 1]
    clock[0] += 1000
    assert [rates.wait("a", 3.0) for _ in range(4)] == [0, 0, 0, 1]
    assert [rates.wait("slow", 0.1) for _ in range(2)] == [0, 10]
