"""The only module that imports the Roboflow SDK, fenced in before and after the import.

Read in SDK 1.7.3: its import loads a ``.env`` file from the folders above its own and replaces
``warnings.formatwarning``; its requests have no time limit; most of its calls drop the HTTP status
of an answer, so that a refused key looks like a server out of order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

import requests

os.environ["PYTHON_DOTENV_DISABLED"] = "1"
_formatwarning = warnings.formatwarning

from roboflow import config  # noqa: E402
from roboflow.adapters.rfapi import (  # noqa: E402
    RoboflowError,
    get_project,
    get_version_export,
)
from roboflow.core.project import Project  # noqa: E402
from roboflow.models.object_detection import ObjectDetectionModel  # noqa: E402
from roboflow.util import http  # noqa: E402

warnings.formatwarning = _formatwarning

__all__ = [
    "SDK_ERRORS",
    "ObjectDetectionModel",
    "Project",
    "api_host",
    "get_project",
    "get_version_export",
    "http",
    "inference_host",
    "status_of",
]

SDK_ERRORS: tuple[type[Exception], ...] = (
    RoboflowError,
    requests.RequestException,
    # What it raises by itself, or where an answer is not what it expects.
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
SECONDS = (10, 120)
"""To connect, and between two parts of an answer."""


def _watched(call: Callable[..., requests.Response]) -> Callable[..., requests.Response]:
    @wraps(call)
    def watched(*args: Any, **kwargs: Any) -> requests.Response:
        response = call(*args, **{"timeout": SECONDS, **kwargs})
        if response.status_code in (401, 403, 408, 429) or response.status_code >= 500:
            raise requests.HTTPError(_message(response), response=response)
        return response

    return watched


def _message(response: requests.Response) -> str:
    """Return what an answer says is wrong; the text of requests would hold the key."""
    try:
        error = response.json().get("error")
    except (ValueError, AttributeError):
        error = None
    text = error.get("message") if isinstance(error, dict) else error
    return str(text or response.reason or response.status_code)


http.get, http.post = _watched(http.get), _watched(http.post)


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that an error of the SDK stands for, None without an answer."""
    status = getattr(error, "status_code", None)
    return status or getattr(getattr(error, "response", None), "status_code", None)


def api_host() -> str:
    """Return the address that images are sent to, as the SDK is set up."""
    return _host(config.API_URL)


def inference_host() -> str:
    """Return the address of hosted models, as the SDK is set up."""
    return _host(config.OBJECT_DETECTION_URL)


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
