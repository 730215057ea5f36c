"""A project on Roboflow, and what has to be known of it before anything is sent."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Any

from wafer.datasets.errors import ExchangeError
from wafer.labelling.exchange.roboflow.asking import Pause, api_key, ask
from wafer.labelling.exchange.roboflow.sdk import Project, api_host, get_project

__all__ = ["RemoteProject", "open_project"]

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class RemoteProject:
    """A project for object detection.

    ``name`` is ``WORKSPACE/PROJECT``, ``host`` where it lies, ``public`` whether everybody can see
    its images. ``key`` and ``sdk`` are for the calls.
    """

    name: str
    host: str
    public: bool
    key: str
    sdk: Any

    @property
    def described(self) -> str:
        """Return name, host and who can see it."""
        seen = "PUBLIC: everybody can see its images" if self.public else "private"
        return f"project {self.name} at {self.host} ({seen})"


def open_project(name: str, *, pause: Pause = time.sleep) -> RemoteProject:
    """Look up a project; only its name and the key are sent.

    Args:
        name: ``WORKSPACE/PROJECT`` as in the address of its page.
        pause: see `ask`.

    Raises:
        ExchangeError: another name, no key, no such project, or one that is not for boxes.
    """
    if not NAME.fullmatch(name):
        raise ExchangeError(f"{name!r} is not WORKSPACE/PROJECT as in the address of its page")
    key = api_key()
    workspace, _, project = name.partition("/")
    log.info("note: looking up %s at %s; only its name and the key are sent", name, api_host())

    def look_up() -> tuple[Any, dict[str, Any]]:
        about = get_project(key, workspace, project)["project"]
        return Project(key, about), about

    sdk, about = ask(f"looking up {name}", look_up, key=key, pause=pause)
    if sdk.type != "object-detection":
        raise ExchangeError(f"{name} is a project for {sdk.type}; make one for object detection")
    return RemoteProject(
        name=name,
        host=api_host(),
        public=bool(about.get("public", True)),
        key=key,
        sdk=sdk,
    )
