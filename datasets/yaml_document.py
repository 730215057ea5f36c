"""YAML that comes from a user or a stranger: what is in it, or that it is none."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["NotYamlError", "yaml_document"]


class NotYamlError(ValueError):
    """A text is no YAML; ``line`` counts from 1, None where it is not known."""

    def __init__(self, reason: str | None, line: int | None) -> None:
        super().__init__("not valid YAML" + (f" ({reason})" if reason else ""))
        self.line = line


def yaml_document(text: str | bytes) -> Any:
    """Return what a YAML text says, of plain types alone.

    Raises:
        NotYamlError: it is not YAML, or a value is not what it looks like or is marked as.

    Example:
        >>> yaml_document("names: [dust, scratch]")
        {'names': ['dust', 'scratch']}
        >>> yaml_document("made: 2024-13-01")
        Traceback (most recent call last):
        wafer.datasets.yaml_document.NotYamlError: not valid YAML (month must be in 1..12)
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise NotYamlError(None, None if mark is None else mark.line + 1) from error
    except (ValueError, ArithmeticError) as error:
        raise NotYamlError(str(error), None) from error
    except (LookupError, AttributeError) as error:
        # PyYAML's own converters of `!!bool x`, `!!int ''` and `!!timestamp x`.
        raise NotYamlError("a value that does not fit its `!!` mark", None) from error
    except RecursionError as error:
        raise NotYamlError("too many brackets in one another", None) from error
