"""The application: which paths there are, who may ask, and what they answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from wafer.service.answers import answer_of, appearance_in
from wafer.service.keys import KeyRing
from wafer.service.web.auditing import Auditing
from wafer.service.web.drifting import Drifting
from wafer.service.web.intake import MAX_IMAGE, MAX_IMAGES, Intake
from wafer.service.web.metrics import CONTENT_TYPE, Metrics
from wafer.service.web.rates import Rates
from wafer.service.web.recording import Recording
from wafer.service.web.refusals import Refused
from wafer.service.web.waiting import Answer
from wafer.service.web.work import Work

__all__ = ["make_app"]

STATIC = Path(__file__).with_name("static")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
IMAGE_TYPES = ("image/png", "image/jpeg", "image/tiff", "image/bmp", "application/octet-stream")
BYTES = {"schema": {"type": "string", "format": "binary"}}
FILES = {
    "type": "object",
    "properties": {"image": {"type": "array", "items": BYTES["schema"], "maxItems": MAX_IMAGES}},
}
BODY = {
    "required": True,
    "description": f"One image of at most {MAX_IMAGE:,} bytes, or a form of up to {MAX_IMAGES}.",
    "content": {
        **dict.fromkeys(IMAGE_TYPES, BYTES),
        "multipart/form-data": {"schema": FILES},
    },
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No image, a form that is none, or boxes of a model that finds none."},
    401: {"description": "No key, or one that is not known."},
    403: {"description": "Asked by a page of another site."},
    408: {"description": "The body came too slowly."},
    413: {"description": "Too many bytes, pixels or images."},
    415: {"description": "Not a PNG, JPEG, TIFF or BMP image."},
    421: {"description": "Another host was meant."},
    422: {
        "description": "An image that is damaged or of a kind that cannot be read, or a parameter "
        "that cannot be."
    },
    429: {"description": "This key asks more often than it may."},
    503: {"description": "Loading, ending, or too much to do; Retry-After says when to try again."},
}

ORIGIN = "up to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit"
PARAMETERS = {"tool": ORIGIN, "step": ORIGIN, "all_boxes": "1 or 0"}
"""What each of them may be."""

Origin = Annotated[
    str,
    Query(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$",
        max_length=64,
        description=f"Where the images come from: {ORIGIN}.",
    ),
]
T = TypeVar("T")
Admit = Callable[[Request], Awaitable[None]]


def make_app(work: Work, *, ring: KeyRing, auditing: Auditing, metrics: Metrics) -> ASGIApp:
    """Return the application of `wafer serve`.

    Args:
        work: the model.
        ring: who may ask; without any key whoever is on this machine.
        auditing: where every answer is written down before it is sent.
        metrics: what is counted.
    """
    app = FastAPI(title="wafer", version="1", docs_url=None, redoc_url=None)
    admit = _admission(ring)
    _add_refusals(app, metrics)
    _add_answers(app, work, admit, auditing, metrics)
    _add_views(app, work, admit, metrics)
    _add_page(app)
    paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    return Recording(app, metrics=metrics, paths=paths)


def _admission(ring: KeyRing) -> Admit:
    """Return what every path that tells something asks first."""
    rates = Rates()

    async def admit(request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "origin", "asked by a page of another site")
        if not ring.wanted:
            if host.rpartition(":")[0] not in LOOPBACK and host not in LOOPBACK:
                raise Refused(421, "host", "without keys this is for 127.0.0.1 alone")
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = ring.find(given.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            text = "no key, or one that is not known; send `Authorization: Bearer KEY`"
            raise Refused(401, "key", text)
        _fields(request)["key"] = key.name
        if key.rate is not None and (wait := rates.wait(key.name, key.rate)):
            text = f"more than the {key.rate:g} requests a second of this key"
            raise Refused(429, "rate", text, again=wait)

    return admit


def _add_refusals(app: FastAPI, metrics: Metrics) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        metrics.refused.labels(error.code).inc()
        _fields(request)["refused"] = error.code
        content = {"error": str(error), "code": error.code, "request_id": _request_id(request)}
        return JSONResponse(content, status_code=error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        content = {"error": error.detail, "code": "path", "request_id": _request_id(request)}
        return JSONResponse(content, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        name = str(error.errors()[0]["loc"][-1])
        content = {"error": f"{name}: {PARAMETERS[name]}", "code": "request"}
        content["request_id"] = _request_id(request)
        return JSONResponse(content, status_code=422)


def _add_answers(
    app: FastAPI, work: Work, admit: Admit, auditing: Auditing, metrics: Metrics
) -> None:
    intake = Intake()
    drifting = Drifting(lambda: work.served.bundle)
    metrics.show(drifting)

    @app.post(
        "/v1/classify",
        dependencies=[Depends(admit)],
        responses=REFUSALS,
        openapi_extra={"requestBody": BODY},
    )
    async def classify(
        request: Request, tool: Origin = "", step: Origin = "", all_boxes: bool = False
    ) -> dict[str, Any]:
        """Return the answer for one image, or those for the files of a form as ``results``."""
        fields = _fields(request)
        given = {"request_id": fields["request_id"], "key": fields.get("key")}
        given |= {"tool": tool or None, "step": step or None}
        begin = time.monotonic()
        with work.request(boxes=all_boxes), intake.holding() as held:
            items = await intake.images(request, held)
            received = time.monotonic() - begin
            answers = await _unless_gone(request, work.answer(items))
            boxes = await _unless_gone(request, work.boxes(items, answers)) if all_boxes else None
            await auditing.record([{**given, **_record(answer)} for answer in answers])
        total = time.monotonic() - begin
        results = []
        for number, answer in enumerate(answers):
            stages = _stages(answer, received, total)
            row = answer.answered.row
            metrics.add_image(row, stages)
            drifting.add(row, tool=tool or given["key"] or "", step=step, digest=answer.digest)
            in_ms = {stage: round(seconds * 1000, 2) for stage, seconds in stages.items()}
            result = answer_of(row, digest=answer.digest)
            found = {} if boxes is None else {"boxes": boxes[number]}
            results.append({**result, **found, "latency_ms": in_ms})
        _note_answers(fields, results)
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            return {"request_id": _request_id(request), "results": results}
        if results[0]["error"]:
            raise Refused(422, "damaged", results[0]["error"])
        return {"request_id": _request_id(request), **results[0]}


def _add_views(app: FastAPI, work: Work, admit: Admit, metrics: Metrics) -> None:
    @app.get("/v1/model", dependencies=[Depends(admit)], responses=REFUSALS)
    async def model() -> dict[str, Any]:
        """Return what is known about the model at work."""
        bundle, about = work.served.bundle, work.served.bundle.description
        refusal = work.refusal
        return {
            "model": bundle.label,
            "model_digest": bundle.digest,
            "engine": work.served.backend.name,
            "engine_version": work.served.backend.version,
            "precision": about.precision,
            "since": work.since,
            "architecture": about.architecture,
            "image_size": about.image_size,
            "classes": [{"code": c.code, "name": c.name, "kind": c.kind} for c in bundle.classes],
            "decision": asdict(about.decision),
            "dataset_hash": about.dataset_hash,
            "metrics": about.metrics,
            "not_used": None
            if refusal is None
            else {"bundle": refusal.name, "reason": refusal.reason},
        }

    @app.get("/metrics", dependencies=[Depends(admit)], responses=REFUSALS)
    async def figures() -> Response:
        """Return figures in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/livez")
    async def live() -> Response:
        """Say that the server runs."""
        return PlainTextResponse("alive\n")

    @app.get("/readyz", responses={503: REFUSALS[503]})
    async def ready() -> Response:
        """Say whether images are answered."""
        if work.ready:
            return PlainTextResponse("ready\n")
        why = "ending" if work.draining else "loading"
        return PlainTextResponse(f"{why}\n", status_code=503)


def _add_page(app: FastAPI) -> None:
    """Add the page, which needs no key itself: it asks for answers like any client."""
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html")


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, T]) -> T:
    """Return the answers, unless the client goes away first: then no process need look."""
    asked = asyncio.create_task(answering)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise Refused(400, "gone", "the client has gone")
        return asked.result()
    finally:
        asked.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _record(answer: Answer) -> dict[str, Any]:
    """Return what the audit log keeps of an answer."""
    row = answer.answered.row
    return {**answer_of(row, digest=answer.digest), **appearance_in(row)}


def _stages(answer: Answer, received: float, total: float) -> dict[str, float]:
    return {
        "receive": received,
        "queue": answer.queued,
        "decode": answer.answered.decode,
        "infer": answer.answered.infer,
        "total": total,
    }


def _note_answers(fields: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Put what was answered into the line of the log."""
    wanted = ("sha256", "class", "confidence", "decision", "error", "latency_ms")
    fields["images"] = [{name: result[name] for name in wanted} for result in results]
    fields["model_digest"] = results[0]["model_digest"]


def _fields(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = request.state.fields
    return fields


def _request_id(request: Request) -> str:
    return str(_fields(request)["request_id"])
