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
    """One connection, which must not be held without a request.

    Whatever comes while none is being answered must end the head of one within so many seconds, and
    so must nothing at all on a new connection; between requests uvicorn's keep-alive counts. What
    is neither a body nor answered is limited: heads, what follows a body, and the frames of chunks.
    """

    def __init__(self, *arguments: Any, head_deadline_s: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.head_deadline_s = head_deadline_s
        self._deadline: TimerHandle | None = None
        self._has_asked = False  #: a whole head has come
        self._is_in_head = False  #: one has begun, and not ended
        self._body_bytes = 0  #: of this request
        self._other_bytes = 0  #: that came since it began and are not its body

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._other_bytes += len(data)
        super().data_received(data)
        if self._other_bytes > MAX_HEAD_BYTES + self._body_bytes:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The head of a request, or what follows it, is over {MAX_HEAD_BYTES} bytes.",
            )
        elif not self._is_answering():
            self._set_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._body_bytes = self._other_bytes = 0
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        self._unset_deadline()
        super().on_headers_complete()
        self._has_asked, self._is_in_head = True, False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._other_bytes = max(0, self._other_bytes - len(body))
        super().on_body(body)

    def _is_answering(self) -> bool:
        return self._has_asked and not self.cycle.response_complete

    def _set_deadline(self) -> None:
        """Unless it is set already: more bytes give no more time."""
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_deadline_s, self._give_up)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_in_head and not self._is_answering():
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The head of a request did not come within {self.head_deadline_s:g} s.",
            )
        elif not self._is_answering():
            self.transport.close()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Say so, unless an answer is under way, and end the connection."""
        self._unset_deadline()
        if self.transport.is_closing():
            return
        if not self._is_answering():
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
