"""Rows as Parquet, from their JSON lines, in row groups of one size and with flat memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["to_parquet"]

GROUP = 50_000
"""Rows a group. A fixed number, so that the same rows are the same bytes."""


def to_parquet(rows: Path, columns: Mapping[str, type[str | int | float]]) -> Path:
    """Write JSON lines as a Parquet file beside them.

    Args:
        rows: a JSON object a line, with all columns; null is null.
        columns: ``str``, ``int`` or ``float`` by name, in their order.

    Returns:
        The file, which has the name of ``rows`` with ``.parquet`` after it; one that was there is
        replaced.

    Raises:
        OSError: the disk is full or fails.
    """
    import polars

    types = {str: polars.String(), int: polars.Int64(), float: polars.Float64()}
    schema = {name: types[kind] for name, kind in columns.items()}
    target = rows.with_name(f"{rows.name}.parquet")
    try:
        with rows.open("rb") as lines, target.open("wb") as handle:
            polars.scan_ndjson(lines, schema=schema).sink_parquet(
                handle, row_group_size=GROUP, sync_on_close="all", engine="streaming"
            )
    except polars.exceptions.ComputeError as error:  # how it says that the disk is full
        raise OSError(str(error)) from error
    return target
