"""The audit log beside the requests: many of them wait for one write to the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from wafer.service.audit import AuditLog
from wafer.service.web.refusals import busy

__all__ = ["Auditing"]

log = logging.getLogger(__name__)

Records = Sequence[Mapping[str, object]]


class Auditing:
    """Writes answers down before they are sent.

    Args:
        audit: the log; None writes nothing.
    """

    def __init__(self, audit: AuditLog | None) -> None:
        self._audit = audit
        self._waiting: list[tuple[Records, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, records: Records) -> None:
        """Return when the answers of a request are on disk.

        Raises:
            Refused: 503, they cannot be written, so the answers must not be sent.
        """
        if self._audit is None:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._audit))
        await done

    async def _write(self, audit: AuditLog) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                records = [record for some, _ in together for record in some]
                await asyncio.to_thread(audit.append, records)
            except OSError as error:
                log.error("audit log cannot be written", extra={"fields": {"error": str(error)}})
                for _, done in together:
                    if not done.done():
                        done.set_exception(busy("audit", "the answer cannot be recorded now"))
            else:
                for _, done in together:
                    if not done.done():
                        done.set_result(None)
