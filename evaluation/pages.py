"""HTML pages that need nothing else: style and images are inside, nothing runs or is fetched."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from wafer.evaluation.tables import percent

__all__ = ["data_url", "render_page"]

STYLE = "style.css.j2"


def render_page(package: str, template: str, **values: object) -> bytes:
    """Return a page as UTF-8, every value in it escaped.

    File names that are not valid Unicode are shown with their odd bytes spelled out.

    Args:
        package: where the template lies, such as ``wafer.evaluation``.
        template: name of the Jinja template. It has the filters ``percent`` and ``interval``, and
            ``style``, for its ``<style>`` and by ``safe``.
        values: what the template shows.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["interval"] = _interval
    environment.globals["style"] = _text("wafer.evaluation", STYLE)
    page = environment.from_string(_text(package, template)).render(**values)
    return page.encode("utf-8", "backslashreplace")


def data_url(data: bytes, kind: str) -> str:
    """Return an image of a kind (``png``, ``jpeg``) as a URL that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _interval(value: Any) -> str:
    return "" if value is None else f"{percent(value[0])} to {percent(value[1])}"
