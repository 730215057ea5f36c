"""API keys: who may ask the server, and how often. Only digests of keys are kept."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wafer.datasets.errors import DataError, Fault, WaferError
from wafer.datasets.files import atomic_file
from wafer.datasets.workspace import Workspace

__all__ = [
    "KEYS",
    "Key",
    "KeyRing",
    "add_key",
    "check_keys_file",
    "keys_file",
    "read_keys",
    "revoke_key",
]

log = logging.getLogger(__name__)

KEYS = "keys.json"
PREFIX = "wafer_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key: its name, its digest, requests a second (None: any number), and when (ISO 8601)."""

    name: str
    sha256: str
    rate: float | None
    created: str
    revoked: str | None = None


class _KeyRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    created: str
    revoked: str | None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal[1]
    keys: list[_KeyRecord]


def keys_file(workspace: Workspace | None, *, keys: Path | None) -> Path | None:
    """Return the file of keys: the one that is named, else that of the workspace."""
    if keys is not None or workspace is None:
        return keys
    return workspace.root / KEYS


def check_keys_file(path: Path, *, named: bool) -> None:
    """Refuse to go on without a file of keys that should be there: nobody would need a key.

    Args:
        path: the file.
        named: by the user; that of a workspace should be there once it was made.

    Raises:
        WaferError: it is not there.
    """
    if path.exists():
        return
    if named:
        raise WaferError(
            f"{path}: no such file; `wafer serve keys add NAME --keys {path}` makes it"
        )
    if path.is_symlink() or _lock(path).exists():
        raise WaferError(
            f"{path} is gone, which once was made; bring back a copy of it, add a key with `wafer "
            f"serve keys add NAME`, or remove {_lock(path).name} beside it where nobody is to need "
            "a key"
        )


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file, revoked ones too; none where there is no file.

    Raises:
        DataError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        found = _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        remedy = "bring back a copy of it, or add keys to a new file"
        raise DataError([Fault(file=str(path), problem=problem, remedy=remedy)]) from error
    return tuple(Key(**record.model_dump()) for record in found.keys)


def add_key(path: Path, name: str, *, rate: float | None = None) -> str:
    """Add a key and return it; nobody can read it again.

    Args:
        path: the file of keys, made where needed, for its owner alone. Made by root it is for the
            owner of the folder; changed by root, it stays its owner's.
        name: letters, digits, ``.``, ``_``, ``-``; it stands in logs.
        rate: requests a second that it may make, above 0; None for any number.

    Raises:
        WaferError: a name that is none, or of another key, or a rate that is none.
        DataError: the file is damaged.
    """
    if not NAME.fullmatch(name):
        raise WaferError(
            f"{name!r}: a name has up to 64 letters, digits, dots, lines or underscores"
        )
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise WaferError(
            f"a rate of {rate:g}: name requests a second, above 0; leave --rate out for any number"
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    with _changing(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise WaferError(f"{path} has a key {name!r}, perhaps a revoked one; name it otherwise")
        new = Key(name=name, sha256=_digest(secret), rate=rate, created=_now())
        _write(path, (*keys, new))
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Let a key open nothing any more; a running server heeds that with its next request.

    Raises:
        WaferError: there is no such key.
        DataError: the file is damaged.
    """
    unknown = WaferError(f"{path} has no key {name!r} in use; see `wafer serve keys list`")
    if not path.exists():  # leave no lock then, which says that there once were keys
        raise unknown
    with _changing(path):
        keys = read_keys(path)
        if not any(key.name == name and key.revoked is None for key in keys):
            raise unknown
        _write(path, tuple(replace(k, revoked=_now()) if k.name == name else k for k in keys))


class KeyRing:
    """The keys of a file, read again whenever it has changed.

    A file that cannot be read opens for nobody. Once a key was seen the server never goes back to
    asking for none.

    Args:
        path: the file; None or none there means that no key is asked for.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = self._state()
        self._keys = () if path is None else read_keys(path)
        self._wanted = bool(self._keys)
        self._complaint = ""

    @property
    def wanted(self) -> bool:
        """Return whether a request needs a key."""
        self._refresh()
        return self._wanted

    def find(self, given: str) -> Key | None:
        """Return the key that a client gave, None where there is no such or it is revoked.

        All digests are compared, in a time that does not tell how far they agree.
        """
        self._refresh()
        digest, found = _digest(given), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest) and key.revoked is None:
                found = key
        return found

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        try:
            self._keys = () if self._path is None else read_keys(self._path)
        except (DataError, OSError) as error:
            # Read again for the next request: it may be in order then without a change.
            self._seen, self._keys, self._wanted = None, (), True
            self._complain(str(error))
            return
        self._seen = state
        self._wanted = self._wanted or bool(self._keys)
        self._complain("no such file" if self._wanted and not state else "")

    def _complain(self, complaint: str) -> None:
        """Log why no key can be found; the same reason once, not for each request."""
        if complaint and complaint != self._complaint:
            fields = {"file": str(self._path), "error": complaint}
            log.error("keys cannot be read: every key is refused", extra={"fields": fields})
        self._complaint = complaint

    def _state(self) -> tuple[int, ...]:
        if self._path is None:
            return ()
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size


def _digest(secret: str) -> str:
    """Return the digest of a key; it has 256 random bits, so that no slow one is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    content = {"format": 1, "keys": [asdict(key) for key in keys]}
    mask = os.umask(0o077)
    try:
        with atomic_file(path) as handle:
            handle.write(f"{json.dumps(content, indent=2)}\n".encode())
            _give(handle.fileno(), path)
    finally:
        os.umask(mask)


def _give(descriptor: int, path: Path) -> None:
    """Let what root writes belong to the service, which could not read root's.

    Args:
        descriptor: of a file that replaces ``path``, or lies beside it.
        path: its owner, else that of its folder, is the service.
    """
    if os.geteuid() != 0:
        return
    for known in (path, path.parent):
        if known.exists() and (owner := known.stat()).st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
            return


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Keep others from changing a file of keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened_lock(path) as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def _opened_lock(path: Path) -> TextIO:
    try:
        handle = _lock(path).open("x")  # which follows no link: root must not give away its target
    except FileExistsError:
        return _lock(path).open("r+")
    _give(handle.fileno(), path)
    return handle
