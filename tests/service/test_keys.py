"""Keys are kept as digests, and a file of them never opens to everybody by mistake."""

import json
import stat
from pathlib import Path

import pytest

from wafer.datasets.errors import DataError, WaferError
from wafer.service.keys import KeyRing, add_key, read_keys, revoke_key
from wafer.service.web.rates import Rates


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
