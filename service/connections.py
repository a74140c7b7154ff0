"""HTTP connections that must finish a request's head: in time, and within a size.

uvicorn bounds neither, so whoever can reach the port, without a key, could hold every connection by
sending heads that never end.
"""

from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 1 << 16  #: and what is read at once, at most 256 KiB


class Connection(HttpToolsProtocol):
    """One connection. Each head must come within so many seconds, the first from the connection on.

    A request that is being answered is never cut off by the head of the next.
    """

    def __init__(self, *arguments: Any, head_deadline_s: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.head_deadline_s = head_deadline_s
        self._is_in_head = True
        self._head_bytes = 0
        self._deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"The head of a request is over {MAX_HEAD_BYTES} bytes.",
                )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_deadline_s, self._give_up)

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._begin_head()
        elif self._head_bytes:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The head of a request did not come within {self.head_deadline_s:g} s.",
            )
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: text/plain; charset=utf-8",
            f"content-length: {len(detail)}",
            "connection: close",
            "",
            detail,
        )
        self.transport.write("\r\n".join(lines).encode("ascii"))
        self.transport.close()
