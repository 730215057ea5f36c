"""The web server of the page: HTTP around `wafer.labelling.review.desk`."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.types import ASGIApp

from wafer.datasets.errors import ConflictError, DataError, ImageError, WaferError
from wafer.datasets.workspace import Workspace, write_yolo_view
from wafer.labelling.exchange.plain_images import plain_image
from wafer.labelling.ledger import this_user
from wafer.labelling.review.desk import Desk
from wafer.labelling.review.guard import Guard
from wafer.labelling.review.piles import Pile
from wafer.labelling.review.shown import GivenBox

__all__ = ["listening", "make_app", "make_server", "review_token", "serve"]

STATIC = Path(__file__).with_name("static")
TOKEN = "review.token"
HOST = "127.0.0.1"
MOST_BOXES = 1000

Who = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80, pattern=r"^\P{C}+$")
]
Session = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z-]{8,64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Asked(BaseModel):
    """What every request of the page says: which window, and who sits there."""

    model_config = ConfigDict(extra="forbid", strict=True)
    session: Session
    who: Who


class _Next(_Asked):
    pile: Pile
    class_name: str | None = None
    after: str | None = None


class _Open(_Asked):
    pile: Pile
    image: str


class _Keep(_Asked):
    image: str


class _Box(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    box: tuple[Number, Number, Number, Number] = Field(strict=False)
    class_name: str
    entry: int | None = None
    candidate: str | None = None


class _Decision(_Open):
    revision: int
    boxes: list[_Box] = Field(max_length=MOST_BOXES)


class _Undo(_Open):
    revision: int


class _Answer(_Asked):
    image: str
    right: bool | None


def make_app(desk: Desk, *, token: str, who: str) -> ASGIApp:
    """Return the application of the page.

    Args:
        desk: answers.
        token: whoever has it may read and write.
        who: the name that the page begins with.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC))
    _add_errors(app)
    _add_views(app, desk, who)
    _add_decisions(app, desk)
    return Guard(app, token=token)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(WaferError)
    def refused(request: Request, error: WaferError) -> Response:
        conflict = isinstance(error, ConflictError | DataError)
        return JSONResponse({"error": str(error)}, status_code=409 if conflict else 422)

    @app.exception_handler(OSError)
    def failed(request: Request, error: OSError) -> Response:
        text = f"not recorded: {error.strerror or error}"
        return JSONResponse({"error": text}, status_code=507)


def _add_views(app: FastAPI, desk: Desk, who: str) -> None:
    """Add what shows something and records nothing."""

    @app.get("/")
    def page() -> Response:
        return FileResponse(STATIC / "index.html")

    @app.get("/api/start")
    def start() -> dict[str, Any]:
        workspace, classes = desk.workspace, desk.workspace.classes
        return {
            "workspace": workspace.root.name,
            "id": hashlib.sha256(str(workspace.root).encode()).hexdigest()[:12],
            "who": who,
            "classes": [{"name": n, "kind": classes[n].kind} for n in classes.detector_names],
            "piles": desk.progress(),
        }

    @app.post("/api/next")
    def following(asked: _Next) -> dict[str, Any]:
        shown = desk.next(
            asked.pile,
            class_name=asked.class_name,
            session=asked.session,
            who=asked.who,
            after=asked.after,
        )
        return {"task": shown, "piles": desk.progress()}

    @app.post("/api/open")
    def opened(asked: _Open) -> dict[str, Any]:
        shown = desk.open(asked.pile, asked.image, session=asked.session, who=asked.who)
        return {"task": shown, "piles": desk.progress()}

    @app.post("/api/keep")
    def keep(asked: _Keep) -> dict[str, Any]:
        return {"kept": desk.keep(asked.image, session=asked.session)}

    @app.get("/api/image")
    def image(image: str) -> Response:
        desk.image_path(image)
        try:
            kind, content = plain_image(desk.workspace, image)
        except ImageError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        return Response(content, media_type=kind)


def _add_decisions(app: FastAPI, desk: Desk) -> None:
    """Add what records something."""

    @app.post("/api/decide")
    def decide(asked: _Decision) -> dict[str, Any]:
        revision = desk.decide(
            asked.pile,
            asked.image,
            [GivenBox(b.box, b.class_name, b.entry, b.candidate) for b in asked.boxes],
            revision=asked.revision,
            session=asked.session,
            who=asked.who,
        )
        return {"revision": revision}

    @app.post("/api/undo")
    def undo(asked: _Undo) -> dict[str, Any]:
        return {"revision": desk.undo(asked.image, revision=asked.revision, who=asked.who)}

    @app.post("/api/answer")
    def answer(asked: _Answer) -> dict[str, Any]:
        desk.answer(asked.image, asked.right, session=asked.session)
        return {}

    @app.post("/api/finish")
    def finish(asked: _Asked) -> dict[str, Any]:
        return desk.finish(who=asked.who).to_dict()


def review_token(workspace: Workspace) -> str:
    """Return the token of a workspace, the same after a restart; its file is for the user alone."""
    path = workspace.cache / TOKEN
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if len(known) >= 32:
        return known
    token = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # else it would keep the rights it has
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(token + "\n")
    return token


def serve(
    workspace: Workspace, *, port: int, who: str | None = None, ready: Callable[[str], None]
) -> None:
    """Serve the page on this machine until the process is interrupted or asked to end.

    Args:
        workspace: whose piles.
        port: 0 takes any that is free.
        who: the name that the page begins with; None takes the user's.
        ready: called with the page's address.

    Raises:
        WaferError: there is nothing to do, or the port is taken.
        DataError: faults in the workspace or its ledger.
    """
    desk = Desk(workspace)
    if not any(progress.total for progress in desk.progress()):
        raise WaferError(
            "there is nothing to look at yet; run `wafer seed 100` to choose images to draw, or "
            "`wafer label-propagate` when some are drawn"
        )
    token = review_token(workspace)
    server = make_server(desk, token=token, who=who or this_user())
    # uvicorn answers what was asked, then raises the signal again: SIGTERM would end all at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with listening(port) as listener:
        ready(f"http://{HOST}:{listener.getsockname()[1]}/?token={token}")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            write_yolo_view(workspace, workspace.samples())


def make_server(desk: Desk, *, token: str, who: str) -> uvicorn.Server:
    """Return a server of the page, to be run on a socket of `listening`; see `make_app`."""
    return uvicorn.Server(
        uvicorn.Config(
            make_app(desk, token=token, who=who),
            log_level="warning",
            access_log=False,  # it would show the token
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


def listening(port: int) -> socket.socket:
    """Return a socket that takes connections of this machine; 0 takes any port that is free.

    Raises:
        WaferError: the port is taken.
    """
    # asyncio turns Nagle's delay off, 40 ms an answer, only where the protocol is said.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # elsewhere it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise WaferError(
            f"port {port} cannot be had ({error.strerror}); is the page open already? Else name "
            "another with --port"
        ) from error
    return listener
