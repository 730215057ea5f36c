"""`wafer serve` over real sockets: what it answers, and what it refuses before it looks closely."""

import csv
import http.client
import io
import json
import resource
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode

from wafer.datasets.images import decode_bytes
from wafer.detector.classification import classify_images
from wafer.inference.preprocess import letterbox
from wafer.service.audit import AUDIT
from wafer.service.web.fleet import AT_ONCE
from wafer.service.web.intake import MAX_IMAGE, MAX_IMAGES
from wafer.service.web.server import MOST_CONNECTIONS
from wafer.service.web.work import MOST_WAITING

pytestmark = pytest.mark.slow

Shot = Callable[..., bytes]
QUIET = list(HealthCheck)
REFUSED = {400, 408, 413, 415, 422}
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.fixture(scope="module")
def server(servers: Callable[..., Any]) -> Any:
    server = servers()
    server.until_ready()
    return server


@pytest.fixture(scope="module", autouse=True)
def slow_clients(server: Any) -> Iterator[list[socket.socket]]:
    """Clients that send the head or the body of a request slowly, while other tests run."""
    begun = [b"", b"POST /v1/cl", HEAD, HEAD + b"Content-Length: 9000\r\n\r\n\x89PNG\r\n\x1a\n"]
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in begun]
    for client, content in zip(clients, begun, strict=True):
        client.sendall(content)
    yield clients
    for client in clients:
        client.close()


def wide(brightness: int) -> bytes:
    """A 16-bit PNG."""
    pixels = np.full((40, 90), brightness * 257, np.uint16)
    pixels[:4] //= 3
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG whose header states 30,000 x 30,000 pixels, all of them black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(30_001) * 30)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg_bomb(shot: Shot) -> bytes:
    """A JPEG whose header states 65,500 x 65,500 pixels."""
    content = shot(90, kind="JPEG")
    size = content.index(b"\xff\xc0") + 5
    return content[:size] + struct.pack(">HH", 65_500, 65_500) + content[size + 4 :]


def transparent() -> bytes:
    file = io.BytesIO()
    Image.new("LA", (8, 8), (90, 7)).save(file, "PNG")
    return file.getvalue()


def test_an_answer_is_the_row_that_classify_writes(
    fab: Any, server: Any, shot: Shot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", fab.environment["XDG_CACHE_HOME"])
    images = tmp_path / "images"
    images.mkdir()
    files = {f"{k:02}.png": shot(k * 16, size=(50 + k, 30 + 3 * k)) for k in range(16)}
    files |= {"a.jpg": shot(77, kind="JPEG"), "b.tif": shot(140, kind="TIFF"), "c.png": wide(99)}
    for name, content in files.items():
        (images / name).write_bytes(content)
    classify_images(
        [str(images)],
        weights=fab.first.folder,
        output=tmp_path / "rows.csv",
        engine="onnxruntime",
    )
    with (tmp_path / "rows.csv").open(encoding="utf-8") as handle:
        rows = {row["image"]: row for row in csv.DictReader(handle)}
    assert {row["class"] for row in rows.values()} == {"clean", "spot", "line"}
    assert {row["decision"] for row in rows.values()} == {"auto", "review"}

    together = {r["image"]: r for r in server.send_form(list(files.items())).json["results"]}
    for name, content in files.items():
        alone = server.classify(content).json
        for answer in (alone, together[name]):
            row = rows[name]
            columns = ["xmin", "ymin", "xmax", "ymax", "class", "confidence"]
            corners = [None if v is None else f"{v:.2f}" for v in answer["vector"][:4]]
            assert corners == [row[c] or None for c in columns[:4]]
            assert answer["vector"][4] == answer["class"] == row["class"]
            assert answer["vector"][5] == answer["confidence"]
            assert f"{answer['confidence']:.6f}" == row["confidence"]
            for column in ("decision", "reason", "sha256", "model"):
                assert (answer[column] or "") == row[column]
            assert str(answer["class_code"]) == row["class_code"]
            assert answer["model_digest"] == fab.first.digest
            assert answer["error"] is None
            latency = answer["latency_ms"]
            assert set(latency) == {"receive", "queue", "decode", "infer", "total"}
            assert 0 < latency["decode"] + latency["infer"] < latency["total"]


def test_a_form_answers_for_each_file_and_says_which_is_damaged(server: Any, shot: Shot) -> None:
    reply = server.send_form([("../../etc/x\u00e4.png", shot(200)), ("b.png", transparent())])
    assert reply.status == 200
    first, second = reply.json["results"]
    assert (first["image"], first["class"]) == ("../../etc/x\u00e4.png", "spot")
    assert second["vector"] is None
    assert second["error"] == "transparent pixels; save it without transparency"


def test_a_file_that_is_refused_costs_no_other_file_of_the_form(
    fab: Any, server: Any, shot: Shot
) -> None:
    good = shot(201)
    files = {
        "empty.png": b"",
        "good.png": good,
        "cut.png": good[:20],
        "text.png": b"not an image but a text",
        "bomb.png": bomb(),
        "long.png": shot(90) + bytes(MAX_IMAGE),
        "again.png": good,
    }
    reply = server.send_form(list(files.items()))
    results = {result["image"]: result for result in reply.json["results"]}
    assert (reply.status, list(results)) == (200, list(files))
    assert {name: result["error"] for name, result in results.items()} == {
        "empty.png": "no image; send the bytes of an image file",
        "good.png": None,
        "cut.png": "damaged or cut off (Truncated File Read)",
        "text.png": "not a PNG, JPEG, TIFF or BMP image, whatever its name; send the file itself",
        "bomb.png": "30000 x 30000 pixels, more than 16,000,000",
        "long.png": "more than 10,485,760 bytes; send less at once",
        "again.png": None,
    }
    for name, result in results.items():
        expected = server.classify(good).json["vector"] if files[name] == good else None
        assert result["vector"] == expected
    log = map(json.loads, (fab.root / AUDIT).read_text().splitlines())
    kept = [line["image"] for line in log if line["request_id"] == reply.json["request_id"]]
    assert kept == list(files)


def test_a_form_of_files_that_are_all_refused_says_why_of_each(server: Any) -> None:
    reply = server.send_form([("a.png", b""), ("b.png", b"a text")])
    assert reply.status == 200
    assert [r["error"].split(";")[0] for r in reply.json["results"]] == [
        "no image",
        "not a PNG, JPEG, TIFF or BMP image, whatever its name",
    ]


def test_the_only_file_of_a_form_is_refused_as_a_body_is(server: Any) -> None:
    for content, status, code in ((b"", 400, "empty"), (b"a text", 415, "not_an_image")):
        reply = server.send_form([("a.png", content)])
        assert (reply.status, reply.json["code"]) == (status, code)


NAMED = "up to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("tool=a+b", f"tool: {NAMED}"),
        ("tool=sem-1&step=-M1", f"step: {NAMED}"),
        (f"tool={'a' * 65}", f"tool: {NAMED}"),
        ("all_boxes=maybe", "all_boxes: 1 or 0"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_in_words(
    server: Any, shot: Shot, query: str, text: str
) -> None:
    reply = server.classify(shot(200), path=f"/v1/classify?{query}")
    assert (reply.status, reply.json["code"], reply.json["error"]) == (422, "request", text)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (lambda shot: b"", 400, "empty"),
        (lambda shot: b"not an image but a text of some length", 415, "not_an_image"),
        (lambda shot: b"GIF89a" + bytes(50), 415, "not_an_image"),
        (lambda shot: b"\x89PNG\r\n\x1a\n", 422, "damaged"),
        (lambda shot: shot(90)[:-30], 422, "damaged"),
        (lambda shot: transparent(), 422, "damaged"),
        (lambda shot: bomb(), 413, "too_many_pixels"),
        (jpeg_bomb, 413, "too_many_pixels"),
        (lambda shot: b"<script>" + shot(90), 415, "not_an_image"),
        (lambda shot: shot(90) + bytes(MAX_IMAGE), 413, "too_long"),
    ],
)
def test_what_is_no_sound_image_is_refused(
    server: Any, shot: Shot, body: Callable[[Shot], bytes], status: int, code: str
) -> None:
    reply = server.classify(body(shot), headers={"content-type": "image/jpeg"})
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert server.ask("/readyz").status == 200


def named(parameters: bytes) -> bytes:
    """Return a form of one file with such a name."""
    return b"--B\r\nContent-Disposition: form-data; " + parameters + b"\r\n\r\nx\r\n--B--"


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("multipart/form-data", b"--B--", "form"),
        ("multipart/mixed; boundary=B", b"--B--", "form"),
        ("multipart/form-data; boundary=B", b"", "form"),
        ("multipart/form-data; boundary=B", b"--B--\r\n", "form"),
        ("multipart/form-data; boundary=B", b"--B\r\n\r\nx\r\n--B--", "form"),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\ncut off',
            "form",
        ),
        ("multipart/form-data; boundary=B", b"--B\r\n" * (MAX_IMAGES + 3), "too_many_images"),
        ("multipart/form-data; boundary*=idna''B", b"--B--", "form"),
        ("multipart/form-data; boundary*=a; boundary*0*=B", b"--B--", "form"),
        ("multipart/form-data; boundary=B", named(b"filename*=undefined''a.png"), "form"),
        ("multipart/form-data; boundary=B", named(b"filename*=a\0b''a.png"), "form"),
        ("multipart/form-data; boundary=B", named(b"filename*=a; filename*0*=b"), "form"),
    ],
)
def test_a_form_that_is_none_is_refused(server: Any, kind: str, body: bytes, code: str) -> None:
    reply = server.classify(body, headers={"content-type": kind})
    assert reply.status in REFUSED
    assert reply.json["code"] == code


def test_a_chunked_body_is_cut_at_the_limit_and_not_kept(server: Any, shot: Shot) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield shot(90)
        while sent < 40 * MAX_IMAGE:
            sent += 1 << 16
            yield bytes(1 << 16)

    try:
        reply = server.classify(endless(), chunked=True, headers={"transfer-encoding": "chunked"})
        assert (reply.status, reply.json["code"]) == (413, "too_long")
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server hung up before it had read all
    assert sent < 4 * MAX_IMAGE
    assert server.ask("/readyz").status == 200


def raw(server: Any, content: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(content)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := client.recv(1 << 16):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def test_a_length_that_lies_does_no_harm(server: Any, shot: Shot) -> None:
    image = shot(200)
    huge = raw(server, HEAD + b"Content-Length: 1099511627776\r\n\r\n" + image)
    assert huge.startswith(b"HTTP/1.1 413")
    short = raw(server, HEAD + b"Content-Length: 100\r\n\r\n" + image)
    assert short.startswith(b"HTTP/1.1 422")
    long = HEAD + f"Content-Length: {len(image) + 9}\r\n\r\n".encode() + image
    assert raw(server, long, half_close=True) == b""
    assert raw(server, HEAD + b"Content-Length: -1\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server, b"\x16\x03\x01 no HTTP at all\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert server.classify(image).json["class"] == "spot"


def test_what_is_an_image_and_something_else_is_an_image(server: Any, shot: Shot) -> None:
    other = b"PK\x03\x04<script>alert(1)</script>%PDF-1.7"
    plain = server.classify(shot(200)).json
    for content in (shot(200) + other, shot(200, kind="JPEG") + other):
        reply = server.classify(content, headers={"content-type": "text/html"})
        assert (reply.status, reply.json["class"]) == (200, plain["class"])
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_no_header_of_a_client_becomes_one_of_an_answer(server: Any, shot: Shot) -> None:
    folded = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    said = raw(server, folded + b"X-Request-Id: abcdefgh\r\n Set-Cookie: a=b\r\n\r\n")
    assert b"set-cookie" not in said.lower()
    said = raw(server, folded + b"X-Request-Id: abcdefgh\rSet-Cookie: a=b\r\n\r\n")
    assert b"set-cookie" not in said.lower()
    reply = server.send_form([("a\r\nSet-Cookie: a=b\r\n\r\n.png", shot(200))])
    assert reply.headers["set-cookie"] is None
    assert reply.status in REFUSED | {200}


def test_a_storm_of_other_paths_leaves_no_trace_in_the_figures(server: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for number in range(300):
        connection.request("GET" if number % 2 else "BREW", f"/{number}/v1/classify?{number}=1")
        response = connection.getresponse()
        response.read()
        assert response.status == 404
    for method in ("GET", "DELETE", "PATCH", "TRACE"):
        connection.request(method, "/v1/classify")
        response = connection.getresponse()
        response.read()
        assert response.status == 405
    connection.close()
    lines = [name for name in figures(server) if name.startswith("wafer_requests_total")]
    assert 'wafer_requests_total{path="other",status="404"}' in lines
    assert len({line.split(",")[0] for line in lines}) < 12


def test_it_has_no_connection_but_those_of_its_clients(server: Any, shot: Shot) -> None:
    server.classify(shot(200))
    parent = psutil.Process(server.process.pid)
    own = [c.laddr.port for c in parent.net_connections(kind="inet")]
    assert set(own) == {server.port}
    assert [c for each in server.workers() for c in each.net_connections(kind="inet")] == []


def test_a_client_that_goes_away_takes_nothing_with_it(server: Any, shot: Shot) -> None:
    image = shot(200)
    whole = HEAD + f"Content-Length: {len(image)}\r\n\r\n".encode() + image
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(whole)
    raw(server, whole, half_close=True)
    assert server.classify(image).json["class"] == "spot"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/classify", 405),
        ("PUT", "/v1/classify", 405),
        ("POST", "/v1/model", 405),
        ("GET", "/v1/classify/../../etc/passwd", 404),
    ],
)
def test_other_paths_and_methods_are_refused(
    server: Any, method: str, path: str, status: int
) -> None:
    reply = server.ask(path, method=method)
    assert (reply.status, reply.json["code"]) == (status, "path")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:{port}"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:{port}"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:{port}", "origin": "http://localhost:{port}"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_ask(server: Any, headers: dict[str, str], status: int) -> None:
    given = {name: value.format(port=server.port) for name, value in headers.items()}
    assert server.ask("/v1/model", headers=given).status == status


def test_a_request_keeps_its_own_number_if_that_is_harmless(server: Any) -> None:
    given = {"x-request-id": "lot-7-wafer-3"}
    assert server.ask("/livez", headers=given).headers["x-request-id"] == "lot-7-wafer-3"
    for odd in ("short", "a" * 65, 'a"b,c d{}', "x" * 9 + "\u00e4"):
        found = server.ask("/livez", headers={"x-request-id": odd}).headers["x-request-id"]
        assert found != odd


def test_the_model_and_the_figures_are_told(fab: Any, server: Any, shot: Shot) -> None:
    model = server.ask("/v1/model").json
    assert model["model_digest"] == fab.first.digest
    assert model["engine"] == "onnxruntime"
    assert model["not_used"] is None
    assert model["classes"][1] == {"code": 1, "name": "spot", "kind": "box"}
    before = figures(server)
    server.classify(shot(230))
    server.classify(b"no image at all")
    after = figures(server)
    spots = 'wafer_images_total{class_name="spot",decision="auto"}'
    refused = 'wafer_refused_total{reason="not_an_image"}'
    queued = 'wafer_seconds_count{stage="queue"}'
    assert [after[n] - before.get(n, 0) for n in (spots, refused, queued)] == [1, 1, 1]
    assert after[f'wafer_model{{digest="{fab.first.digest}",model="{fab.first.label}"}}'] == 1


def test_where_an_image_comes_from_and_how_it_looks_is_recorded(
    fab: Any, server: Any, shot: Shot
) -> None:
    image = shot(140)
    said = server.classify(image, path="/v1/classify?tool=sem-1&step=M1").json
    log = (fab.root / AUDIT).read_text().splitlines()
    (line,) = [each for each in map(json.loads, log) if each["request_id"] == said["request_id"]]
    assert (line["tool"], line["step"]) == ("sem-1", "M1")
    seen = letterbox(decode_bytes(image, "a"), 32).image[4:28]
    assert line["brightness"] == pytest.approx(seen.mean(), abs=1e-4)
    assert line["sharpness"] > 1
    # the nearest golden image has a grey level of 140, the padding of a letterbox one of 114
    assert line["distance"] == pytest.approx(
        abs(0.75 * seen.mean() + 0.25 * 114 - 140) / 255, abs=1e-4
    )
    assert figures(server)['wafer_today_images{step="M1",tool="sem-1"}'] == 1
    for odd in ("a b", "%0d%0aX:y", "a" * 65, "../x"):
        reply = server.classify(image, path=f"/v1/classify?tool={odd.replace(' ', '+')}")
        assert (reply.status, reply.json["code"]) == (422, "request")


def figures(server: Any) -> dict[str, float]:
    reply = server.ask("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in reply.raw.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_description_of_the_interface_needs_no_other_site(server: Any) -> None:
    described = server.ask("/openapi.json")
    operation = described.json["paths"]["/v1/classify"]["post"]
    assert "image/png" in operation["requestBody"]["content"]
    assert {"200", "401", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert b"http" not in described.raw


def test_nothing_that_the_description_allows_or_forbids_ends_in_a_fault(
    server: Any, shot: Shot
) -> None:
    images = st.sampled_from([shot(90), shot(200, kind="JPEG"), transparent(), shot(90)[:-30]])
    for kind in ("image/png", "image/jpeg", "image/tiff", "image/bmp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, images | st.binary(max_size=200))
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    seen = set()
    for found in schema.get_all_operations():
        seen |= asked_about(found.ok(), server.address)
    assert server.ask("/readyz").status == 200
    assert {("GET /livez", 200), ("GET /v1/model", 200), ("POST /v1/classify", 200)} <= seen


def asked_about(operation: Any, address: str) -> set[tuple[str, int]]:
    """Ask for one operation in all ways, and return the status of each answer."""
    declared = {*operation.definition.raw["responses"], "422"}
    seen = set()

    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=QUIET)
    @given(case=st.one_of([operation.as_strategy(generation_mode=m) for m in GenerationMode]))
    def check(case: Any) -> None:
        response = case.call(base_url=address)
        assert str(response.status_code) in declared, (case.as_curl_command(), response.text)
        seen.add((operation.label, response.status_code))

    check()
    return seen


def test_a_full_queue_refuses_at_once_and_what_waited_too_long_is_never_looked_at(
    server: Any, shot: Shot
) -> None:
    def taken() -> float:
        return figures(server)["wafer_batch_images_sum"]

    server.until(lambda: figures(server).get("wafer_requests_inside", 0) == 0)
    before = taken()
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    with ThreadPoolExecutor(32) as threads:

        def send(images: int) -> Future[Any]:
            return threads.submit(server.send_form, [("a.png", shot(200))] * images)

        try:
            first = []
            for number in range(1, len(workers) + 1):
                first.append(send(AT_ONCE))
                server.until(lambda n=number: taken() == before + n * AT_ONCE)  # type: ignore[misc]
            rest = [send(16) for _ in range(MOST_WAITING // 16)]
            server.until(lambda: figures(server)["wafer_waiting_images"] == MOST_WAITING)
            full = server.classify(shot(200))
            assert (full.status, full.json["code"]) == (503, "queue_full")
            assert full.headers["retry-after"] == "1"
            late = [each.result() for each in rest]
            assert {(reply.status, reply.json["code"]) for reply in late} == {(503, "deadline")}
        finally:
            for worker in workers:
                worker.resume()
        assert {each.result().status for each in first} == {200}
    assert taken() == before + len(workers) * AT_ONCE
    assert server.classify(shot(200)).status == 200


def test_who_goes_away_while_waiting_is_taken_out_of_the_queue(server: Any, shot: Shot) -> None:
    def value(name: str) -> float:
        return figures(server).get(name, 0)

    gone = 'wafer_refused_total{reason="gone"}'
    server.until(lambda: value("wafer_requests_inside") == 0)
    before, taken = value(gone), value("wafer_batch_images_sum")
    image = shot(200)
    whole = HEAD + f"Content-Length: {len(image)}\r\n\r\n".encode() + image
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    try:
        number = len(workers) + 3  # a free process takes what comes first
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(number)]
        for count, client in enumerate(clients, 1):
            client.sendall(whole)
            server.until(lambda n=count: value("wafer_requests_inside") == n)  # type: ignore[misc]
        assert value("wafer_waiting_images") == 3
        for client in clients:
            client.close()
        server.until(lambda: value(gone) == before + number)
        assert value("wafer_waiting_images") == 0
    finally:
        for worker in workers:
            worker.resume()
    assert server.classify(image).status == 200
    assert value("wafer_batch_images_sum") == taken + len(workers) + 1


@pytest.mark.parametrize(
    "size", [MOST_CONNECTIONS + 50, pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_a_crowd_that_says_nothing_is_refused_and_then_hung_up_on(
    server: Any, shot: Shot, size: int
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < size + 1000:
        pytest.skip(f"a process may have {before[1]} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (size + 1000, before[1]))
    crowd: list[socket.socket] = []
    try:
        for _ in range(size):
            crowd.append(socket.create_connection(("127.0.0.1", server.port), timeout=60))
        server.until(lambda: server.ask("/livez").status == 503)
        server.until(lambda: server.classify(shot(200)).status == 200)
        assert crowd[0].recv(1) == b""
    finally:
        for client in crowd:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_brings_the_server_down(server: Any, shot: Shot, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "BMP"]))
    body = bytearray(shot(100, kind=kind))
    for _ in range(data.draw(st.integers(0, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    content = bytes(body[:cut] if data.draw(st.booleans()) else body)
    assert server.classify(content).status in REFUSED | {200}
    with_form = b"--B\r\n" + bytes(body[:60]) + b"\r\n\r\n" + content + b"\r\n--B--"
    headers = {"content-type": "multipart/form-data; boundary=B"}
    assert server.classify(with_form, headers=headers).status in REFUSED | {200}


def test_the_log_has_a_line_for_each_request_and_no_image(server: Any, shot: Shot) -> None:
    image = shot(201)
    number = server.classify(image).json["request_id"]
    server.until(lambda: number in server.log.read_text())
    (line,) = [line for line in server.logged("request") if line["request_id"] == number]
    assert (line["status"], line["path"]) == (200, "/v1/classify")
    assert line["images"][0]["class"] == "spot"
    assert line["images"][0]["latency_ms"]["total"] > 0
    assert "IHDR" not in server.log.read_text()
    assert all(len(json.dumps(line)) < 20_000 for line in server.logged("request"))


def test_clients_that_are_slow_are_hung_up_on(slow_clients: list[socket.socket]) -> None:
    answers = []
    for client in slow_clients:
        client.settimeout(60)
        answers.append(client.recv(1 << 16))
    assert answers[:3] == [b"", b"", b""]
    assert answers[3].startswith(b"HTTP/1.1 408")
