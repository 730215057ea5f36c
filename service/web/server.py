"""The process of `wafer serve`: all it needs is checked, then it serves until told to end."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from wafer.datasets.errors import WaferError
from wafer.datasets.workspace import Workspace
from wafer.inference.cores import core_count
from wafer.inference.engines.choosing import AUTO
from wafer.service.audit import AuditLog, audit_file
from wafer.service.keys import KeyRing, check_keys_file, keys_file
from wafer.service.logs import log_as_json
from wafer.service.models import Served, bundle_to_serve, first_bundle, passed
from wafer.service.web.app import make_app
from wafer.service.web.auditing import Auditing
from wafer.service.web.metrics import Metrics
from wafer.service.web.work import DRAIN, MOST_WAITING, Work

__all__ = ["Plan", "listening", "plan_server", "serve"]

MOST_CONNECTIONS = 1000
BACKLOG = 128
HEAD_SECONDS = 5.0
"""In which the head of a request has to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a server needs, found in order.

    ``choose`` returns the folder of the bundle that should be at work, ``check`` the bundle itself
    once it has given its golden answers; ``served`` is the first one. ``audit`` is the audit log,
    ``tls`` the files of certificate and key.
    """

    host: str
    port: int
    ring: KeyRing
    served: Served
    choose: Callable[[], Path]
    check: Callable[[Path], Served]
    deadline: float
    queue: int
    audit: Path | None
    tls: tuple[Path, Path] | None


def plan_server(
    *,
    workspace: Workspace | None,
    weights: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    keys: Path | None = None,
    engine: str = AUTO,
    deadline: float = 2.0,
    queue: int = MOST_WAITING,
    audit: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> Plan:
    """Check everything that `serve` needs.

    Args:
        workspace: whose promoted bundle and keys; see also `first_bundle`.
        weights: a bundle to serve instead, whatever is promoted.
        host: the address to listen at; others than this machine's own need a key.
        port: 0 takes any that is free.
        keys: a file of keys instead of the workspace's.
        engine: what runs the bundle: ``openvino``, ``onnxruntime`` or ``auto``.
        deadline: seconds that an image may wait for a process.
        queue: images that may wait, at least 1.
        audit: the audit log instead of the workspace's; without either there is none.
        tls_cert: a certificate with its chain, as PEM, to serve over TLS.
        tls_key: its key, as PEM, without a password.

    Raises:
        WaferError: no key for an address that others can reach, a file of keys that is not there,
            or files of TLS that do not belong together.
        DataError: damaged keys, or a bundle with missing or altered files.
        WeightsError: no bundle, or no engine that gives its golden answers.
    """
    path = keys_file(workspace, keys=keys)
    if path is not None:
        check_keys_file(path, named=keys is not None)
    ring = KeyRing(path)
    if not ring.wanted and not _is_loopback(host):
        where = "a file named with --keys" if path is None else str(path)
        raise WaferError(
            f"{host} can be reached by others, and there is no key in {where}; add one with "
            "`wafer serve keys add NAME`, or leave --host out"
        )
    first = first_bundle(workspace, weights=weights)
    choose = partial(bundle_to_serve, workspace, weights=weights, instead=first)
    check = partial(passed, engine=engine)
    return Plan(
        host=host,
        port=port,
        ring=ring,
        served=check(choose()),
        choose=choose,
        check=check,
        deadline=deadline,
        queue=queue,
        audit=audit_file(None if workspace is None else workspace.root, audit=audit),
        tls=_tls(tls_cert, tls_key),
    )


def serve(plan: Plan, *, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then let nobody in, answer who is, and return.

    Args:
        plan: of `plan_server`.
        ready: called with the server's address, when it can be connected to.

    Raises:
        WaferError: the address cannot be had, the model cannot be opened, or another process
            writes to the audit log.
        DataError: the end of the audit log was changed.
    """
    log_as_json()
    _allow_files(4 * MOST_CONNECTIONS)
    with listening(plan.host, plan.port) as listener:
        host = f"[{plan.host}]" if ":" in plan.host else plan.host
        scheme = "http" if plan.tls is None else "https"
        ready(f"{scheme}://{host}:{listener.getsockname()[1]}")
        audit = None if plan.audit is None else AuditLog(plan.audit)
        try:
            asyncio.run(_run(plan, listener, Auditing(audit)))
        finally:
            if audit is not None:
                audit.close()


async def _run(plan: Plan, listener: socket.socket, auditing: Auditing) -> None:
    metrics = Metrics()
    work = Work(
        plan.served,
        choose=plan.choose,
        check=plan.check,
        processes=core_count(),
        deadline=plan.deadline,
        queue=plan.queue,
        metrics=metrics,
    )
    server = _Server(
        uvicorn.Config(
            make_app(work, ring=plan.ring, auditing=auditing, metrics=metrics),
            http=_Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=DRAIN,
            ssl_certfile=None if plan.tls is None else plan.tls[0],
            ssl_keyfile=None if plan.tls is None else plan.tls[1],
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    working = asyncio.create_task(_work(work))
    ending = asyncio.create_task(server.asked_to_end.wait())
    await asyncio.wait({serving, working, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    working.cancel()
    await asyncio.wait({working})
    await work.stop()
    server.should_exit = True
    await serving
    if not working.cancelled() and (error := working.exception()):
        raise error


async def _work(work: Work) -> None:
    """Open the model, and follow what is promoted."""
    await work.start()
    await work.follow()


class _Server(uvicorn.Server):
    """A server that says when it was asked to end, instead of ending."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.asked_to_end = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; asked again, do so at once."""
        if self.asked_to_end.is_set():
            self.should_exit = self.force_exit = True
        self._loop.call_soon_threadsafe(self.asked_to_end.set)


class _Protocol(H11Protocol):
    """HTTP with clients that take their time over the head of a request hung up on."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on with a request, or begin with the next one."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget about it."""
        super().connection_lost(exc)
        self._wait_no_more()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _tls(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise WaferError("TLS needs both files; name them with --tls-cert and --tls-key")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, lambda: "")
    except OSError as error:  # of which those of TLS are a kind
        raise WaferError(
            f"{cert} and {key} cannot be used ({error.strerror or error}); name a certificate and "
            "its key without a password, as PEM"
        ) from error
    return cert, key


def _allow_files(number: int) -> None:
    """Let this process have so many connections and files open, where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections.

    Raises:
        WaferError: no address of this machine, or a port that is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        # asyncio turns Nagle's delay off, 40 ms an answer, only where the protocol is said.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise WaferError(f"{host} is no address of this machine ({error.strerror})") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise WaferError(
            f"{host}, port {port}, cannot be had ({error.strerror}); name another with --port"
        ) from error
    return listener
