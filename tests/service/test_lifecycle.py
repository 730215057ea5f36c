"""What happens to a server: keys, promotions, dead processes, the end; and no request is lost."""

import http.client
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from wafer.cli import app
from wafer.datasets.errors import WaferError
from wafer.inference.bundle import ONNX
from wafer.service.audit import AUDIT, read_audit, verify_audit
from wafer.service.keys import KEYS, add_key, revoke_key
from wafer.service.web.server import listening, plan_server

pytestmark = pytest.mark.slow

Shot = Callable[..., bytes]


@pytest.fixture(scope="module")
def server(fab: Any, servers: Callable[..., Any]) -> Any:
    key = add_key(fab.root / KEYS, "mes")
    server = servers("--deadline", "60")
    server.key = key
    server.until_ready()
    return server


class Load:
    """Clients that ask without a pause, and what they were told."""

    def __init__(self, server: Any, image: bytes, clients: int = 2) -> None:
        self.answers: list[Any] = []
        self.broken: list[Exception] = []
        self._ended = threading.Event()
        self._server, self._image = server, image
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while self.once() and not self._ended.is_set():
            pass

    def once(self) -> bool:
        """Ask once, and return whether there was an answer."""
        try:
            self.answers.append(self._server.classify(self._image))
        except (OSError, http.client.HTTPException) as error:
            self.broken.append(error)
            return False
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            self._server.until(lambda: len(self.answers) > 4)
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()


@pytest.mark.parametrize(
    "given",
    [
        {"authorization": ""},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer {key}x"},
        {"authorization": "Basic {key}"},
        {"authorization": "{key}"},
    ],
)
def test_only_who_has_a_key_is_answered(server: Any, shot: Shot, given: dict[str, str]) -> None:
    headers = {name: value.format(key=server.key) for name, value in given.items()}
    for path, body in (("/v1/classify", shot(200)), ("/v1/model", None), ("/metrics", None)):
        reply = server.ask(path, body, headers=headers)
        assert (reply.status, reply.json["code"]) == (401, "key")
        assert reply.headers["www-authenticate"] == "Bearer"
    assert server.ask("/livez", headers=headers).status == 200


def test_the_key_is_looked_at_before_the_body(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n"
        client.sendall(head)
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
        assert answer.startswith(b"HTTP/1.1 401")


def test_a_revoked_key_is_refused_with_the_next_request_and_a_slow_one_has_to_wait(
    fab: Any, server: Any
) -> None:
    def status(key: str) -> int:
        given = {"authorization": f"Bearer {key}"}
        return int(server.ask("/v1/model", headers=given).status)

    where = ["--workspace", str(fab.root)]
    added = CliRunner().invoke(app, ["serve", "keys", "add", "tool", *where])
    key = added.stdout.strip()
    assert status(key) == 200
    revoke_key(fab.root / KEYS, "tool")
    assert status(key) == 401
    slow = add_key(fab.root / KEYS, "slow", rate=0.05)
    assert [status(slow) for _ in range(2)] == [200, 429]
    reply = server.ask("/v1/model", headers={"authorization": f"Bearer {slow}"})
    assert 1 <= int(reply.headers["retry-after"]) <= 20
    listed = CliRunner().invoke(app, ["serve", "keys", "list", *where]).stdout
    assert [line.split()[:2] for line in listed.splitlines()] == [
        ["mes", "any"],
        ["tool", "any"],
        ["slow", "0.05/s"],
    ]
    log = server.log.read_text()
    assert not [secret for secret in (key, slow, server.key) if secret in log]


def test_a_promoted_bundle_takes_over_and_no_request_is_lost(
    fab: Any, server: Any, shot: Shot
) -> None:
    fab.promote(fab.first)
    server.until(lambda: server.ask("/v1/model").json["model_digest"] == fab.first.digest)
    load = Load(server, shot(220))
    with load.running():
        fab.promote(fab.second)
        server.until(lambda: load.answers[-1].json["model_digest"] == fab.second.digest)
    assert load.broken == []
    assert {answer.status for answer in load.answers} == {200}
    confidences = {a.json["model"]: a.json["confidence"] for a in load.answers}
    assert set(confidences) == {fab.first.label, fab.second.label}
    ratio = confidences[fab.second.label] / confidences[fab.first.label]
    assert ratio == pytest.approx(0.9, abs=1e-5)
    assert server.ask("/v1/model").json["not_used"] is None


@pytest.mark.parametrize("fault", ["golden", "garbage", "gone"])
def test_a_bad_bundle_leaves_the_old_one_at_work(
    fab: Any, server: Any, shot: Shot, fault: str
) -> None:
    before = server.ask("/v1/model").json["model_digest"]
    bad = fab.wrong
    if fault != "golden":
        name = bad.folder.name.replace(bad.digest[:6], "abcdef" if fault == "gone" else "fedcba")
        if fault == "garbage":
            shutil.copytree(bad.folder, bad.folder.with_name(name))
            (bad.folder.with_name(name) / ONNX).write_bytes(b"garbage")
        lines = (fab.workspace.models / "current").read_text()
        (fab.workspace.models / "current").write_text(
            f"{lines}2026-01-01T00:00:00+00:00 promote {name}\n"
        )
    else:
        name = bad.folder.name
        fab.promote(bad)
    server.until(lambda: (server.ask("/v1/model").json["not_used"] or {}).get("bundle") == name)
    told = server.ask("/v1/model").json
    assert told["model_digest"] == before
    expected = {"golden": "golden one, over", "garbage": "which is not", "gone": "missing"}
    assert expected[fault] in told["not_used"]["reason"]
    assert server.classify(shot(220)).json["model_digest"] == before
    assert b"wafer_model_refused 1.0" in server.ask("/metrics").raw
    good = fab.first if before == fab.first.digest else fab.second
    fab.promote(good)
    server.until(lambda: server.ask("/v1/model").json["not_used"] is None)
    assert b"wafer_model_refused 0.0" in server.ask("/metrics").raw


def test_a_dead_process_costs_time_and_no_request(server: Any, shot: Shot) -> None:
    load = Load(server, shot(210))
    with load.running():
        old = server.workers()
        old[0].kill()
        old[-1].kill()
        done = len(load.answers)
        server.until(lambda: len(load.answers) > done + 8)
        server.until(lambda: len(server.workers()) == len(old))
    assert load.broken == []
    assert {answer.status for answer in load.answers} == {200}
    assert {answer.json["class"] for answer in load.answers} == {"spot"}
    assert {worker.pid for worker in server.workers()}.isdisjoint(w.pid for w in old[:1])
    taker = psutil.Process(server.process.pid).nice()
    # Whoever takes and refuses requests goes before those that compute, the replaced ones too.
    assert {worker.nice() for worker in server.workers()} == {min(19, taker + 5)}
    assert server.logged("process of the model has ended")[0]["how"] == "SIGKILL"


def test_a_model_file_replaced_by_garbage_gives_no_answer_instead_of_a_wrong_one(
    fab: Any, server: Any, shot: Shot
) -> None:
    digest = server.classify(shot(220)).json["model_digest"]
    path = next(fab.workspace.models.glob(f"sha256-{digest}")) / ONNX
    whole = path.read_bytes()
    path.write_bytes(b"garbage")
    try:
        assert server.classify(shot(220)).json["model_digest"] == digest
        for worker in server.workers():
            worker.kill()
        # Each process learns of it when it is asked.
        statuses = set()
        while server.ask("/readyz").status == 200:
            statuses.add(server.classify(shot(220)).status)
        assert statuses == {503}
    finally:
        path.write_bytes(whole)
    server.until_ready()
    assert server.classify(shot(220)).json["model_digest"] == digest


def test_a_key_that_is_revoked_while_its_image_arrives_opens_nothing_more(
    fab: Any, server: Any, shot: Shot
) -> None:
    key, image = add_key(fab.root / KEYS, "stream"), shot(220)
    before = _inside(server)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/v1/classify")
    connection.putheader("authorization", f"Bearer {key}")
    connection.putheader("content-length", str(len(image)))
    connection.endheaders()
    connection.send(image[:20])
    server.until(lambda: _inside(server) == before + 1)
    revoke_key(fab.root / KEYS, "stream")
    connection.send(image[20:])
    assert connection.getresponse().status == 200  # it was let in before
    connection.close()
    given = {"authorization": f"Bearer {key}"}
    assert server.classify(image, headers=given).status == 401


def test_told_to_end_it_answers_who_is_inside_lets_nobody_in_and_leaves_no_process(
    fab: Any, server: Any, shot: Shot
) -> None:
    """The last test of this server."""
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    load = Load(server, shot(190))
    waiting = [threading.Thread(target=load.once) for _ in range(8)]
    for thread in waiting:
        thread.start()
    server.until(lambda: _inside(server) == 8)
    late = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    late.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n")
    server.process.terminate()
    time.sleep(0.3)
    late.sendall(b"\r\n")
    assert late.recv(1 << 16).startswith(b"HTTP/1.1 503")
    late.close()
    refused = server.classify(shot(190))
    assert (refused.status, refused.json["code"]) == (503, "draining")
    for worker in workers:
        worker.resume()
    for thread in waiting:
        thread.join()
    assert server.process.wait(60) == 0
    assert load.broken == []
    assert [answer.status for answer in load.answers] == [200] * 8
    assert not any(worker.is_running() for worker in workers)
    assert all(json.loads(line) for line in server.log.read_text().splitlines())
    verify_audit(fab.root / AUDIT)
    kept = [json.loads(line) for line in (fab.root / AUDIT).read_text().splitlines()]
    told = {answer.json["request_id"]: answer.json for answer in load.answers}
    found = {line["request_id"]: line for line in kept if line["request_id"] in told}
    assert len(found) == 8
    for number, line in found.items():
        assert line["key"] == "mes"
        for name in ("sha256", "vector", "decision", "model_digest"):
            assert line[name] == told[number][name]


def _inside(server: Any) -> int:
    lines = server.ask("/metrics").raw.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("wafer_requests_inside ")]
    return int(float(line.split()[1]))


def test_killed_under_load_it_is_back_at_once_and_the_record_is_whole(
    fab: Any, servers: Callable[..., Any], shot: Shot
) -> None:
    key = add_key(fab.root / KEYS, "kill")
    server = servers("--deadline", "60")
    server.key = key
    server.until_ready()
    workers = server.workers()
    load = Load(server, shot(230), clients=4)
    with load.running():
        server.process.kill()
        server.process.wait()
    assert load.broken  # they saw it, and nobody got a wrong answer
    assert {answer.status for answer in load.answers} == {200}
    assert len({answer.json["confidence"] for answer in load.answers}) == 1
    gone, left = psutil.wait_procs(workers, timeout=60)
    assert (len(gone), left) == (len(workers), [])
    again = servers("--deadline", "60")
    again.key = key
    again.until_ready()
    # Of a processor, since others may be at work on this machine.
    slowest = max(sum(w.cpu_times()[:2]) for w in again.workers())
    assert sum(psutil.Process(again.process.pid).cpu_times()[:2]) + slowest < 3
    lines = [json.loads(line) for line in (fab.root / AUDIT).read_text().splitlines()]
    kept = {line["request_id"]: line["vector"] for line in lines}
    for answer in load.answers:
        assert kept[answer.json["request_id"]] == answer.json["vector"]

    # A full disk under the log: nothing is answered that cannot be recorded.
    limits = psutil.Process(again.process.pid).rlimit
    before = limits(psutil.RLIMIT_FSIZE)
    limits(psutil.RLIMIT_FSIZE, ((fab.root / AUDIT).stat().st_size + 10, before[1]))
    full = again.classify(shot(230))
    assert (full.status, full.json["code"]) == (503, "audit")
    limits(psutil.RLIMIT_FSIZE, before)
    number = again.classify(shot(230)).json["request_id"]
    assert again.stop() == 0
    verify_audit(fab.root / AUDIT)
    last = json.loads((fab.root / AUDIT).read_text().splitlines()[-1])
    assert last["request_id"] == number


NAMESPACE = """
import fcntl, http.client, json, socket, struct, subprocess, sys
with socket.socket() as lo:  # a namespace of its own begins without even this
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
image, *command = sys.argv[1:]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline().rsplit(":", 1)[1])
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
connection.request("POST", "/v1/classify", open(image, "rb"))
print(connection.getresponse().read().decode())
server.terminate()
sys.exit(server.wait())
"""


@pytest.mark.slow
def test_without_any_network_it_answers_all_the_same(fab: Any, shot: Shot, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    (tmp_path / "a.png").write_bytes(shot(220))
    program = [sys.executable, "-P", "-c", NAMESPACE, str(tmp_path / "a.png")]
    wafer = [str(Path(sys.executable).with_name("wafer")), "serve", "--port", "0"]
    options = ["--weights", str(fab.first.folder)]
    done = subprocess.run(
        ["unshare", "-rn", *program, *wafer, *options, "--deadline", "100"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=fab.environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model_digest"] == fab.first.digest


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static long *shift;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
    shift = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t which, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, at);
    if (!failed && which == CLOCK_REALTIME && shift != MAP_FAILED) at->tv_sec += *shift;
    return failed;
}
"""
"""The clock of the day as some file says, in every process that loads it."""


def test_a_clock_that_jumps_costs_no_answer_and_no_line(
    fab: Any, start: Callable[..., Any], shot: Shot, tmp_path: Path
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    (tmp_path / "clock.c").write_text(CLOCK)
    library, shift = tmp_path / "clock.so", tmp_path / "shift"
    build = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"]
    subprocess.run(build, check=True)
    shift.write_bytes(bytes(8))
    clock = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}
    key = add_key(tmp_path / "keys.json", "tool", rate=1000)
    options = ["--weights", str(fab.first.folder), "--deadline", "60"]
    options += ["--audit", str(tmp_path / AUDIT), "--keys", str(tmp_path / "keys.json")]
    server = start(fab.environment | clock, tmp_path / "log", *options)
    server.key = key
    try:
        server.until_ready()
        hour = 3600
        for number, jump in enumerate((0, -hour, 50 * hour, -50 * hour, 0)):
            with shift.open("r+b") as handle:
                handle.write(struct.pack("l", jump))
            assert server.classify(shot(200 + number)).status == 200
            assert server.ask("/readyz").status == 200
            assert server.ask("/metrics").status == 200
        assert server.stop() == 0
    finally:
        server.process.kill()
        server.process.communicate()
    assert verify_audit(tmp_path / AUDIT).lines == 5
    days = [datetime.fromisoformat(line["time"]) for line in read_audit(tmp_path / AUDIT)]
    assert [round((b - a).total_seconds() / hour) for a, b in pairwise(days)] == [-1, 51, -100, 50]


def test_it_does_not_start_with_what_cannot_work(
    fab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", fab.environment["XDG_CACHE_HOME"])
    monkeypatch.chdir(tmp_path)

    def said(*options: str) -> tuple[int, str]:
        given = ["serve", "--engine", "onnxruntime", "--check", *options]
        done = CliRunner().invoke(app, given)
        return done.exit_code, done.stderr

    shutil.copytree(fab.root, "new", ignore=shutil.ignore_patterns("models", "audit*", "*keys*"))
    code, text = said("--workspace", "new")
    assert (code, "no bundle is promoted here; run" in text) == (1, True)
    Path("new", f".{KEYS}.lock").touch()
    code, text = said("--workspace", "new")
    assert (code, "keys.json is gone, which once was made; bring back" in text) == (1, True)
    code, text = said("--port", "70000")
    assert (code, "0<=x<=65535" in text) == (2, True)
    code, text = said("--weights", str(fab.workspace.models / "none"))
    assert (code, "no bundle; make one of a model" in text) == (1, True)
    code, text = said("--weights", str(fab.wrong.folder))
    assert (code, "golden one, over 0.001" in text) == (1, True)
    given = ["--weights", str(fab.first.folder), "--host", "0.0.0.0"]
    code, text = said(*given)
    assert (code, "can be reached by others, and there is no key in" in text) == (1, True)
    code, text = said(*given[:2], "--keys", str(tmp_path / "none.json"))
    assert (code, "none.json: no such file; `wafer serve keys add NAME" in text) == (1, True)
    (tmp_path / "damaged.json").write_text("{}")
    code, text = said(*given, "--keys", str(tmp_path / "damaged.json"))
    assert (code, "damaged.json" in text) == (1, True)
    add_key(tmp_path / "keys.json", "mes")
    code, text = said(*given, "--keys", str(tmp_path / "keys.json"))
    assert (code, text) == (0, f"{fab.first.label} on onnxruntime: in order\n")


def test_over_tls_only_who_speaks_it_is_answered(
    fab: Any, servers: Callable[..., Any], shot: Shot, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the path")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, "-keyout", key, "-out", cert], capture_output=True, check=True)
    with pytest.raises(WaferError, match="TLS needs both files"):
        plan(fab, tls_cert=cert)
    with pytest.raises(WaferError, match=r"cert\.pem and .*cert\.pem cannot be used"):
        plan(fab, tls_cert=cert, tls_key=cert)
    add_key(tmp_path / "k", "mes")
    server = servers("--tls-cert", str(cert), "--tls-key", str(key), "--keys", str(tmp_path / "k"))
    context = ssl.create_default_context(cafile=str(cert))
    connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=60)
    connection.request("GET", "/livez")
    assert connection.getresponse().read() == b"alive\n"
    connection.close()
    with pytest.raises(OSError, match=r"reset|closed"):
        server.ask("/livez")
    assert server.stop() == 0


def plan(fab: Any, **more: Any) -> Any:
    return plan_server(workspace=fab.workspace, engine="onnxruntime", port=0, **more)


def test_answers_are_sent_without_delay(
    sends_at_once: Callable[[socket.socket], bool],
) -> None:
    with listening("127.0.0.1", 0) as listener:
        assert sends_at_once(listener)
