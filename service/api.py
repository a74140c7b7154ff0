"""The HTTP API. Every error is problem+json (RFC 9457) and never repeats what was sent.

| error                | status | | error                    | status |
|----------------------|--------|-|--------------------------|--------|
| body is not JSON     | 400    | | body too large           | 413    |
| no or bad key        | 401    | | Content-Type not JSON    | 415    |
| key without scope    | 403    | | fact cannot be used      | 422    |
| not found            | 404    | | too slow with the body   | 408    |
| conflict             | 409    | | more than the quota      | 429    |
| no room on the disk  | 507    | | busy, or no database     | 503    |
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Protocol, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, BeforeValidator, ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from service import auth, facts, history, operations, views
from service.auth import Caller, Scope
from service.db import check_at_head, check_writable, first_line, reading, writing
from service.disk import check_room
from service.errors import (
    BelowReserve,
    Conflict,
    DatabaseNotReady,
    Later,
    LeaseHeld,
    NotAllowed,
    NotFound,
    Overloaded,
    OverQuota,
    ServiceError,
)
from service.facts import FactState
from service.group_commit import ITEMS_A_TRANSACTION
from service.history import in_utc
from service.ingest import (
    MAX_KEY_SHOWN,
    IngestResult,
    Intake,
    StreamResult,
    item_problems,
    printable,
)
from service.known_facts import in_head_that_saw
from service.lineage import read_head
from service.metrics import Counted, Metrics
from service.openapi import (
    NDJSON,
    PROBLEM_JSON,
    TOO_LARGE,
    Described,
    body_of,
    lines_of,
    problems,
)
from service.operations import Kind
from service.schemas import (
    MAX_ID,
    ErasureIn,
    FactIn,
    Name,
    ReasonIn,
    RollbackIn,
    as_written,
)
from service.settings import Settings

log = logging.getLogger(__name__)
AskedFor = TypeVar("AskedFor", bound=ReasonIn)

RETRY_AFTER_S = 5
NOWHERE = "There is nothing at this path. An id in a path is a number."
READY_WITHIN_S = 5.0  #: then /readyz says that it is not
NO_ROOM = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INSUFFICIENT_STORAGE)
STATUS_OF: dict[type[ServiceError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    LeaseHeld: HTTPStatus.CONFLICT,
    OverQuota: HTTPStatus.TOO_MANY_REQUESTS,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    BelowReserve: HTTPStatus.INSUFFICIENT_STORAGE,
}


class Wakeable(Protocol):
    """What the API asks of the clock."""

    def wake(self) -> None: ...
    def wake_operations(self) -> None: ...


class IdConvertor(StringConvertor):
    """A path's part that is an id. Whatever else stands there names nothing."""

    regex = "[0-9]{1,10}"


register_url_convertor("id", IdConvertor())


class Withdrawn(BaseModel):
    """All that a key which may not read is told of its own fact."""

    id: int
    state: FactState
    retracted_at: datetime | None
    known_by: list[int]  #: adapters of the head that saw it, and know it until they are taken out


class Bounded:
    """Turns requests away that come while so many are being answered."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.count = 0

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/livez":  # alive, however busy
            await self.app(scope, receive, send)
            return
        if self.count >= self.limit:
            busy = f"{self.count} requests are being answered; send it again later."
            await problem_response(HTTPStatus.SERVICE_UNAVAILABLE, busy)(scope, receive, send)
            return
        self.count += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.count -= 1


class SharedLook:
    """A look at something that may hang, in a thread of its own, shared by all who ask meanwhile.

    The threads of requests may all be waiting for the same thing. A look that takes too long is
    left to itself, and another one begun: what hung for it may be well again.
    """

    LOOKS = 4  #: at once
    TOO_LONG_S = 30.0

    def __init__(self, look: Callable[[], int]) -> None:
        self._look = look
        self._threads = CapacityLimiter(self.LOOKS)
        self._began = 0.0
        self._looking: asyncio.Task[int] | None = None

    async def result(self, *, within_s: float) -> int:
        """What it finds. Raises TimeoutError, and what the look raises."""
        now = asyncio.get_running_loop().time()
        hangs = now - self._began > self.TOO_LONG_S and self._threads.available_tokens > 0
        if self._looking is None or self._looking.done() or hangs:
            self._began = now
            work = run_sync(self._look, limiter=self._threads, abandon_on_cancel=True)
            self._looking = asyncio.create_task(work)
            self._looking.add_done_callback(lambda looked: looked.cancelled() or looked.exception())
        return await asyncio.wait_for(asyncio.shield(self._looking), within_s)


class Problem(Exception):
    """An answer that is not a success."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, retry_after_s: int | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more
        self.retry_after_s = retry_after_s

    @property
    def response(self) -> JSONResponse:
        """As problem+json."""
        return problem_response(
            self.status, self.detail, retry_after_s=self.retry_after_s, **self.more
        )


def create_app(settings: Settings, engine: Engine, clock: Wakeable) -> FastAPI:
    """The application over one database; `clock` is woken by what it is to carry out."""
    pepper = auth.read_pepper(settings.state_dir)
    keys = auth.KeyRing(engine, pepper)
    intake = Intake(settings, engine, pepper)
    app = Described(title="Lorewright", version="1", redoc_url=None)
    metrics = Metrics(settings, engine)
    app.add_middleware(Bounded, limit=settings.api.limit_concurrency)
    app.add_middleware(Counted, metrics=metrics)  # the outermost: it counts what is turned away
    _answer_errors(app)

    def allow(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
        async def check(request: Request) -> Caller:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not key:
                raise NotAllowed("Send an API key: `Authorization: Bearer lw_...`.")
            key, now = key.strip(), datetime.now(UTC)
            caller = keys.remembered(key, now=now)
            if caller is None:
                caller = await run_in_threadpool(keys.check, key, now=now)
            caller.require(scope)
            _refuse_unknown_parameters(request)
            return caller

        return check

    may_ingest = allow(Scope.INGEST)
    Ingest = Annotated[Caller, Depends(may_ingest)]
    Admin = Annotated[Caller, Depends(allow(Scope.ADMIN))]
    reads = [Depends(allow(Scope.READ))]
    Id = Annotated[int, Path(ge=1, le=MAX_ID)]
    Before = Annotated[int | None, Query(ge=1, le=MAX_ID)]
    Limit = Annotated[int, Query(ge=1, le=views.MAX_PAGE)]
    Source = Annotated[Name | None, Query()]
    missing = problems(HTTPStatus.NOT_FOUND)
    clash = problems(HTTPStatus.CONFLICT)

    @app.post(
        "/v1/facts",
        response_model=IngestResult,
        responses=problems(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, also=IngestResult)
        | problems(*NO_ROOM),
        openapi_extra=body_of(FactIn, at_most=settings.facts.max_items),
    )
    async def post_facts(request: Request, caller: Ingest) -> JSONResponse:
        """Store one fact or a list of facts, each with an outcome of its own."""
        items, size = await _read_items(request, settings)
        result = await intake.take(items, caller, size=size)
        if result.refused < len(result.items):
            return JSONResponse(result.model_dump(exclude_none=True))
        conflict = all(
            problem.title in ("conflict", "erased")
            for item in result.items
            for problem in item.problems
        )
        status = HTTPStatus.CONFLICT if conflict else HTTPStatus.UNPROCESSABLE_ENTITY
        raise Problem(
            status,
            "No item was stored; each says why.",
            **result.model_dump(exclude_none=True),
        )

    @app.post(
        "/v1/facts/bulk",
        responses=problems(*NO_ROOM, HTTPStatus.SERVICE_UNAVAILABLE, also=StreamResult),
        openapi_extra=lines_of(FactIn),
    )
    async def post_bulk(request: Request, caller: Ingest) -> StreamResult:
        """Store a stream of facts, a JSON object a line, however long it is.

        They are stored while they come. Where it breaks off, send the lines after
        `committed_through`; to send some twice does no harm.
        """
        result = StreamResult(lines=0, committed_through=0)
        try:
            async for lines in _read_lines(request, settings):
                caller = await may_ingest(request)  # it may have been revoked, or have ended
                await intake.take_lines(lines, caller, result)
        except ClientDisconnect:
            log.info("a stream broke off after line %s", result.committed_through)
        except (Problem, ServiceError, SQLAlchemyError) as error:
            problem = _problem_of(error)
            problem.more |= result.model_dump()
            raise problem from error
        return result

    @app.get("/v1/facts", dependencies=reads)
    def get_facts(
        before: Before = None, limit: Limit = 50, source: Source = None
    ) -> views.Page[views.FactView]:
        with reading(engine) as session:
            return views.list_facts(session, before=before, limit=limit, source=source)

    @app.get("/v1/facts/{fact_id:id}", dependencies=reads)
    def get_fact(fact_id: Id) -> views.FactDetail:
        with reading(engine) as session:
            return views.show_fact(session, fact_id)

    @app.get("/v1/review", dependencies=reads)
    def get_review(limit: Limit = views.MAX_PAGE) -> views.Review:
        """The facts that wait for an admin, and why."""
        with reading(engine) as session:
            return views.facts_to_review(session, now=datetime.now(UTC), limit=limit)

    @app.get("/v1/facts/{fact_id:id}/holders", dependencies=reads)
    def get_holders(fact_id: Id) -> list[history.Holder]:
        """The adapters that were trained on it or were shown it again, with their releases."""
        with reading(engine) as session:
            views.show_fact(session, fact_id)  # a 404 where there is none
            return history.holders_of(session, fact_id)

    @app.get("/v1/held", dependencies=reads, responses=missing)
    def get_held(
        release: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        at: Annotated[datetime | None, BeforeValidator(as_written)] = None,
        before: Before = None,
        limit: Limit = 50,
    ) -> history.Held:
        """The facts of a release, of the head at a time (UTC where it says no zone), or of now."""
        if release is not None and at is not None:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "Give a release or a time, not both.")
        with reading(engine) as session:
            return history.facts_held(
                session, release_id=release, at=at and in_utc(at), before=before, limit=limit
            )

    @app.get("/v1/refreshes", dependencies=reads)
    def get_refreshes(before: Before = None, limit: Limit = 50) -> views.Page[views.RefreshView]:
        with reading(engine) as session:
            return views.list_refreshes(session, before=before, limit=limit)

    @app.post("/v1/refreshes", status_code=202, dependencies=[Depends(allow(Scope.ADMIN))])
    def post_refresh() -> dict[str, str]:
        """Let the clock look now. Whether a refresh is due stays the database's to say."""
        clock.wake()
        return {"detail": "The clock looks now; a refresh starts if one is due."}

    @app.get("/v1/refreshes/{refresh_id:id}", dependencies=reads)
    def get_refresh(refresh_id: Id) -> views.RefreshDetail:
        with reading(engine) as session:
            return views.show_refresh(session, refresh_id)

    @app.get("/v1/adapters", dependencies=reads)
    def get_adapters(before: Before = None, limit: Limit = 50) -> views.Page[views.AdapterView]:
        with reading(engine) as session:
            return views.list_adapters(session, before=before, limit=limit)

    @app.get("/v1/adapters/{adapter_id:id}", dependencies=reads)
    def get_adapter(adapter_id: Id) -> views.AdapterDetail:
        with reading(engine) as session:
            return views.show_adapter(session, adapter_id)

    @app.get("/v1/releases", dependencies=reads)
    def get_releases(before: Before = None, limit: Limit = 50) -> views.Page[views.ReleaseView]:
        with reading(engine) as session:
            return views.list_releases(session, before=before, limit=limit)

    @app.get("/v1/releases/{release_id:id}", dependencies=reads)
    def get_release(release_id: Id) -> views.ReleaseDetail:
        with reading(engine) as session:
            return views.show_release(session, release_id)

    @app.get("/v1/releases/{release_id:id}/changes", dependencies=reads)
    def get_changes(
        release_id: Id, since: Annotated[int, Query(ge=1, le=MAX_ID)]
    ) -> history.Changes:
        """What is different since another release: adapters, facts, and what is answered."""
        with reading(engine) as session:
            return history.changes_between(session, since, release_id)

    @app.get("/v1/erasures", dependencies=reads)
    def get_erasures(before: Before = None, limit: Limit = 50) -> views.Page[views.ErasureView]:
        with reading(engine) as session:
            return views.list_erasures(session, before=before, limit=limit)

    @app.get("/v1/erasures/{erasure_id:id}", dependencies=reads)
    def get_erasure(erasure_id: Id) -> views.ErasureView:
        """What went with some facts, by numbers and digests."""
        with reading(engine) as session:
            return views.show_erasure(session, erasure_id)

    @app.get("/v1/head", dependencies=reads)
    def get_head() -> views.HeadView:
        with reading(engine) as session:
            return views.show_head(session)

    async def accept(
        kind: Kind,
        request: Request,
        caller: Caller,
        model: type[AskedFor],
        command: Callable[[AskedFor], list[str]],
    ) -> JSONResponse:
        """Write down what is asked for, let it begin, and say where to look how it goes."""
        asked = await _read_model(request, settings, model)

        def write() -> views.OperationDetail:
            with writing(engine) as session:
                operation = operations.enqueue(
                    session,
                    kind,
                    command(asked),
                    reason=asked.reason,
                    by=_name_of(caller),
                    now=datetime.now(UTC),
                )
                return views.show_operation(session, operation.id)

        view = await run_in_threadpool(write)
        clock.wake_operations()
        return JSONResponse(
            view.model_dump(mode="json"),
            status_code=HTTPStatus.ACCEPTED,
            headers={"Location": f"/v1/operations/{view.id}"},
        )

    accepted: dict[str, Any] = {
        "status_code": HTTPStatus.ACCEPTED,
        "response_model": views.OperationDetail,
    }

    @app.post("/v1/rollbacks", openapi_extra=body_of(RollbackIn), **accepted)
    async def post_rollback(request: Request, caller: Admin) -> JSONResponse:
        """Take an adapter out of the head, or point the head at an earlier release."""
        return await accept(Kind.ROLLBACK, request, caller, RollbackIn, lambda it: it.arguments)

    @app.post("/v1/erasures", openapi_extra=body_of(ErasureIn), **accepted)
    async def post_erasure(request: Request, caller: Admin) -> JSONResponse:
        """Remove every trace of facts. It cannot be undone."""
        return await accept(Kind.ERASURE, request, caller, ErasureIn, lambda it: it.arguments)

    @app.post("/v1/adapters/{adapter_id:id}/approval", openapi_extra=body_of(ReasonIn), **accepted)
    async def post_approval(request: Request, adapter_id: Id, caller: Admin) -> JSONResponse:
        """Let in, on your word, an adapter of which the gate could not tell."""
        command = ["adapters", "promote", str(adapter_id)]
        return await accept(
            Kind.APPROVAL, request, caller, ReasonIn, lambda it: [*command, f"--reason={it.reason}"]
        )

    @app.get("/v1/audit", dependencies=[Depends(allow(Scope.ADMIN))])
    def get_audit(before: Before = None, limit: Limit = 50) -> views.Page[views.AuditView]:
        """Who did what: a chain, each entry with the digest of the one before."""
        with reading(engine) as session:
            return views.list_audit(session, before=before, limit=limit)

    @app.get("/v1/operations", dependencies=reads)
    def get_operations(before: Before = None, limit: Limit = 50) -> views.Page[views.OperationView]:
        with reading(engine) as session:
            return views.list_operations(session, before=before, limit=limit)

    @app.get("/v1/operations/{operation_id:id}", dependencies=reads)
    def get_operation(operation_id: Id) -> views.OperationDetail:
        """How far it is; what the command printed, once it ended."""
        with reading(engine) as session:
            return views.show_operation(session, operation_id)

    @app.post("/v1/facts/{fact_id:id}/retraction", responses=clash)
    def post_retraction(fact_id: Id, caller: Ingest) -> Withdrawn:
        """Withdraw a fact of your own source. What an adapter learned of it stays."""
        with writing(engine) as session:
            if views.show_fact(session, fact_id).source != caller.source:
                raise NotAllowed(
                    f"Fact {fact_id} is another source's; an admin may retract it, by "
                    "`lorewright facts retract`.",
                    known=True,
                )
            row = facts.retract(session, fact_id, by=_name_of(caller), now=datetime.now(UTC))
            return Withdrawn(
                id=row.id,
                state=FactState.RETRACTED,
                retracted_at=row.retracted_at,
                known_by=in_head_that_saw(session, fact_id),
            )

    @app.post("/v1/facts/{fact_id:id}/approval", responses=clash)
    def post_fact_approval(fact_id: Id, caller: Admin) -> views.FactDetail:
        """Let a fact that is held be trained."""
        with writing(engine) as session:
            facts.approve(session, fact_id, by=_name_of(caller), now=datetime.now(UTC))
            return views.show_fact(session, fact_id)

    @app.get("/metrics", dependencies=reads, response_class=PlainTextResponse)
    def get_metrics() -> Response:
        """For Prometheus; give its scrape job a key with the scope `read`."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/livez")
    async def livez() -> dict[str, str]:  # in no thread, of which a slow database may have all
        """The process answers."""
        return {"state": "alive"}

    def find_head() -> int:
        check_at_head(engine)
        check_writable(engine)
        try:
            check_room(settings)
        except BelowReserve as error:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        with reading(engine) as session:
            return read_head(session).release_id

    look = SharedLook(find_head)

    @app.get("/readyz")
    async def readyz() -> dict[str, int]:
        """The database can be written to, has the right schema and a head; the disk has room."""
        try:
            return {"head": await look.result(within_s=READY_WITHIN_S)}
        except TimeoutError as error:
            waited = f"The database did not answer within {READY_WITHIN_S:g} s."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, waited) from error

    return app


def _name_of(caller: Caller) -> str:
    """Who is on record for what was asked for."""
    return f"{caller.source} (key {caller.key_id})"


async def _read_model(request: Request, settings: Settings, model: type[AskedFor]) -> AskedFor:
    """The one document of a request. Raises Problem that says what is wrong with it."""
    parsed, _ = await _read_json(request, settings)
    try:
        return model.model_validate(parsed)
    except (ValidationError, RecursionError) as error:
        problems = item_problems(error)
        said = "; ".join(f"{wrong.pointer or 'it'}: {wrong.detail}" for wrong in problems)
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"This cannot be asked for: {said.removesuffix('.')}.",
            problems=[wrong.model_dump() for wrong in problems],
        ) from error


async def _read_items(request: Request, settings: Settings) -> tuple[list[Any], int]:
    """The request's items, parsed and not yet validated, and its size in bytes.

    A single object is a list of one.

    NaN and lone surrogates are let through here, so that only the item that holds them is refused.
    """
    parsed, size = await _read_json(request, settings)
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The list holds no fact.")
    if len(items) > settings.facts.max_items:
        raise Problem(
            TOO_LARGE,
            f"The list holds {len(items)} facts; send at most {settings.facts.max_items} at once.",
        )
    return items, size


async def _read_lines(request: Request, settings: Settings) -> AsyncIterator[list[bytes]]:
    """The lines of a stream, as many at a time as are stored in one transaction."""
    _check_type(request, NDJSON)
    limit, rest = settings.api.max_body_bytes, bytearray()
    lines: list[bytes] = []
    waiting = 0  # bytes of them
    problem = None
    chunks = aiter(request.stream())
    while problem is None:
        try:
            async with asyncio.timeout(settings.api.body_deadline_s):
                chunk = await anext(chunks, None)
        except TimeoutError:
            waited = f"Nothing came for {settings.api.body_deadline_s:g} s."
            problem = Problem(HTTPStatus.REQUEST_TIMEOUT, waited)
            break
        if chunk is None:
            lines += [bytes(rest).strip()] if rest else []
            break
        rest += chunk
        whole = []
        if b"\n" in chunk:  # else a line that comes byte by byte would be copied with each
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
        for line in whole:
            lines.append(line.strip())
            waiting += len(line)
            if len(lines) == ITEMS_A_TRANSACTION or waiting > limit:
                yield lines
                lines, waiting = [], 0
        if len(rest) > limit:
            problem = Problem(TOO_LARGE, f"A line is over {limit} bytes.")
    if any(lines):
        yield lines
    if problem is not None:
        raise problem


def _refuse_unknown_parameters(request: Request) -> None:
    """Where some are known: a filter that is ignored would give an answer to another question."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    if known and not set(request.query_params) <= set(known):
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"A query parameter is unknown here; there are {', '.join(known)}.",
        )


def _check_type(request: Request, wanted: str) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wanted:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send Content-Type: {wanted}.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Compressed bodies are not taken.")


async def _read_json(request: Request, settings: Settings) -> tuple[Any, int]:
    _check_type(request, "application/json")
    body = await _read_body(request, settings)
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Problem(HTTPStatus.BAD_REQUEST, f"The body is not JSON{where}.") from error
    return parsed, len(body)


async def _read_body(request: Request, settings: Settings) -> bytes:
    limit = settings.api.max_body_bytes
    body = bytearray()
    try:
        async with asyncio.timeout(settings.api.body_deadline_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise Problem(TOO_LARGE, f"The body is over {limit} bytes.")
    except TimeoutError as error:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"The body did not arrive within {settings.api.body_deadline_s:g} s.",
        ) from error
    return bytes(body)


def problem_response(
    status: HTTPStatus, detail: str, *, retry_after_s: int | None = None, **more: Any
) -> JSONResponse:
    body = {
        "type": f"urn:lorewright:problem:{status.phrase.lower().replace(' ', '-')}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        **more,
    }
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if retry_after_s is not None or status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(retry_after_s or RETRY_AFTER_S)
    return JSONResponse(body, status_code=status, media_type=PROBLEM_JSON, headers=headers)


EXPECTED = (OperationalError, PoolTimeout)  #: of a database that is away, or slow


def _problem_of(error: Problem | ServiceError | SQLAlchemyError) -> Problem:
    """What is answered to an error that has a place here."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, NotAllowed):
        status = HTTPStatus.FORBIDDEN if error.known else HTTPStatus.UNAUTHORIZED
        return Problem(status, str(error))
    if isinstance(error, ServiceError):
        kinds = [kind for kind in STATUS_OF if isinstance(error, kind)]
        status = STATUS_OF[kinds[0]] if kinds else HTTPStatus.INTERNAL_SERVER_ERROR
        wait_s = error.retry_after_s if isinstance(error, Later) else None
        return Problem(status, str(error), retry_after_s=wait_s)
    said = first_line(error)
    # It is full, locked or gone: a line a request is enough, all the more on a full disk.
    log.error("the database failed: %s", said, exc_info=not isinstance(error, EXPECTED))
    if "full" in str(getattr(error, "orig", "")).lower():
        return Problem(HTTPStatus.INSUFFICIENT_STORAGE, "The disk is full; nothing was stored.")
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "The database is not at hand; send it again later."
    )


def _methods_of(app: FastAPI, request: Request) -> list[str]:
    """The methods that a path can be asked with."""
    return sorted(
        method
        for route in app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    )


def _answer_errors(app: FastAPI) -> None:
    """The one place that maps errors to HTTP."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return error.response

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        return _problem_of(error).response

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        places = ", ".join(
            ".".join(printable(part, MAX_KEY_SHOWN) for part in mistake["loc"])
            for mistake in error.errors()
        )
        return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, f"Cannot be used: {places}.")

    @app.exception_handler(ClientDisconnect)
    async def client_went(_: Request, error: ClientDisconnect) -> JSONResponse:
        """Nobody hears the answer; its status is counted."""
        return problem_response(HTTPStatus.REQUEST_TIMEOUT, "The body broke off.")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        detail = NOWHERE if status is HTTPStatus.NOT_FOUND else f"{status.phrase}."
        response = problem_response(status, detail)
        response.headers.update(error.headers or {})
        if status is HTTPStatus.METHOD_NOT_ALLOWED:  # what is allowed, of all routes of this path
            response.headers["Allow"] = ", ".join(_methods_of(app, request))
        return response

    @app.exception_handler(SQLAlchemyError)
    async def database_error(_: Request, error: SQLAlchemyError) -> JSONResponse:
        return _problem_of(error).response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=error)
        return problem_response(
            HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; the log says what."
        )
