"""The HTTP API. Every error is problem+json (RFC 9457) and never repeats what was sent.

| error                | status | | error                    | status |
|----------------------|--------|-|--------------------------|--------|
| body is not JSON     | 400    | | body too large           | 413    |
| no or bad key        | 401    | | Content-Type not JSON    | 415    |
| key without scope    | 403    | | fact cannot be used      | 422    |
| not found            | 404    | | too slow with the body   | 408    |
| conflict             | 409    | | database not at hand     | 503    |
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service import auth, facts, history, operations, views
from service.auth import Caller, Scope
from service.db import check_at_head, reading, writing
from service.errors import (
    Conflict,
    DatabaseNotReady,
    LeaseHeld,
    NotAllowed,
    NotFound,
    ServiceError,
)
from service.facts import Stored
from service.history import in_utc
from service.lineage import read_head
from service.metrics import Counted, Metrics
from service.operations import Kind
from service.schemas import MAX_ID, ErasureIn, FactIn, ReasonIn, RollbackIn
from service.settings import Settings

log = logging.getLogger(__name__)
AskedFor = TypeVar("AskedFor", bound=ReasonIn)

TOO_LARGE = HTTPStatus(413)  # its name differs between Python versions
PROBLEM_JSON = "application/problem+json"
MAX_KEY_SHOWN = 60  #: characters of an unknown field's name in an answer
MAX_POINTER_PARTS = 8  #: no field that we know lies deeper
MAX_PROBLEMS = 20  #: of one item; a body of unknown fields must not become a larger answer
RETRY_AFTER_S = 5
ITEMS_A_TRANSACTION = 500  #: more would keep a running refresh from writing for too long
STATUS_OF: dict[type[ServiceError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    LeaseHeld: HTTPStatus.CONFLICT,
    DatabaseNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Wakeable(Protocol):
    """What the API asks of the clock."""

    def wake(self) -> None: ...
    def wake_operations(self) -> None: ...


class Problem(Exception):
    """An answer that is not a success."""

    def __init__(self, status: HTTPStatus, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more


class ItemProblem(BaseModel):
    """What is wrong with one item; `pointer` is a JSON pointer into that item."""

    title: str
    detail: str
    pointer: str


class ItemResult(BaseModel):
    """What became of one item of the request."""

    index: int
    outcome: str  #: stored, duplicate or refused
    id: int | None = None
    external_id: str | None = None
    held: str | None = None  #: why it waits for an admin's approval, where it does
    problems: list[ItemProblem] = []


class IngestResult(BaseModel):
    """Outcomes in the order of the request. Whatever says stored is on the disk."""

    stored: int
    duplicates: int
    refused: int
    items: list[ItemResult]


def create_app(settings: Settings, engine: Engine, clock: Wakeable) -> FastAPI:
    """The application over one database; `clock` is woken by what it is to carry out."""
    pepper = auth.read_pepper(settings.state_dir)
    app = FastAPI(title="Lorewright", version="1", redoc_url=None)
    metrics = Metrics(settings, engine)
    app.add_middleware(Counted, metrics=metrics)
    _answer_errors(app)

    def allow(scope: Scope) -> Callable[[Request], Caller]:
        def check(request: Request) -> Caller:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not key:
                raise NotAllowed("Send an API key: `Authorization: Bearer lw_...`.")
            with reading(engine) as session:
                caller = auth.check_key(session, key.strip(), pepper=pepper, now=datetime.now(UTC))
            caller.require(scope)
            return caller

        return check

    Ingest = Annotated[Caller, Depends(allow(Scope.INGEST))]
    Admin = Annotated[Caller, Depends(allow(Scope.ADMIN))]
    reads = [Depends(allow(Scope.READ))]
    Id = Annotated[int, Path(ge=1, le=MAX_ID)]
    Before = Annotated[int | None, Query(ge=1, le=MAX_ID)]
    Limit = Annotated[int, Query(ge=1, le=views.MAX_PAGE)]

    @app.post(
        "/v1/facts",
        responses={422: {"model": IngestResult}},
        openapi_extra=_body_of(FactIn),
    )
    async def post_facts(request: Request, caller: Ingest) -> JSONResponse:
        """Store one fact or a list of facts, each with an outcome of its own."""
        items = await _read_items(request, settings)
        result = await run_in_threadpool(ingest, engine, settings, items, caller, pepper)
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

    @app.get("/v1/facts", dependencies=reads)
    def get_facts(
        before: Before = None, limit: Limit = 50, source: str | None = None
    ) -> views.Page[views.FactView]:
        with reading(engine) as session:
            return views.list_facts(session, before=before, limit=limit, source=source)

    @app.get("/v1/facts/{fact_id}", dependencies=reads)
    def get_fact(fact_id: Id) -> views.FactDetail:
        with reading(engine) as session:
            return views.show_fact(session, fact_id)

    @app.get("/v1/facts/{fact_id}/holders", dependencies=reads)
    def get_holders(fact_id: Id) -> list[history.Holder]:
        """The adapters that were trained on it or were shown it again, with their releases."""
        with reading(engine) as session:
            views.show_fact(session, fact_id)  # a 404 where there is none
            return history.holders_of(session, fact_id)

    @app.get("/v1/held", dependencies=reads)
    def get_held(
        release: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        at: datetime | None = None,
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

    @app.get("/v1/refreshes/{refresh_id}", dependencies=reads)
    def get_refresh(refresh_id: Id) -> views.RefreshDetail:
        with reading(engine) as session:
            return views.show_refresh(session, refresh_id)

    @app.get("/v1/adapters", dependencies=reads)
    def get_adapters(before: Before = None, limit: Limit = 50) -> views.Page[views.AdapterView]:
        with reading(engine) as session:
            return views.list_adapters(session, before=before, limit=limit)

    @app.get("/v1/adapters/{adapter_id}", dependencies=reads)
    def get_adapter(adapter_id: Id) -> views.AdapterDetail:
        with reading(engine) as session:
            return views.show_adapter(session, adapter_id)

    @app.get("/v1/releases", dependencies=reads)
    def get_releases(before: Before = None, limit: Limit = 50) -> views.Page[views.ReleaseView]:
        with reading(engine) as session:
            return views.list_releases(session, before=before, limit=limit)

    @app.get("/v1/releases/{release_id}", dependencies=reads)
    def get_release(release_id: Id) -> views.ReleaseDetail:
        with reading(engine) as session:
            return views.show_release(session, release_id)

    @app.get("/v1/releases/{release_id}/changes", dependencies=reads)
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

    @app.get("/v1/erasures/{erasure_id}", dependencies=reads)
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

        def write() -> views.OperationView:
            with writing(engine) as session:
                operation = operations.enqueue(
                    session,
                    kind,
                    command(asked),
                    reason=asked.reason,
                    by=_name_of(caller),
                    now=datetime.now(UTC),
                )
                return views.operation_view(operation)

        view = await run_in_threadpool(write)
        clock.wake_operations()
        return JSONResponse(
            view.model_dump(mode="json"),
            status_code=HTTPStatus.ACCEPTED,
            headers={"Location": f"/v1/operations/{view.id}"},
        )

    accepted: dict[str, Any] = {
        "status_code": HTTPStatus.ACCEPTED,
        "response_model": views.OperationView,
    }

    @app.post("/v1/rollbacks", openapi_extra=_body_of(RollbackIn), **accepted)
    async def post_rollback(request: Request, caller: Admin) -> JSONResponse:
        """Take an adapter out of the head, or point the head at an earlier release."""
        return await accept(Kind.ROLLBACK, request, caller, RollbackIn, lambda it: it.arguments)

    @app.post("/v1/erasures", openapi_extra=_body_of(ErasureIn), **accepted)
    async def post_erasure(request: Request, caller: Admin) -> JSONResponse:
        """Remove every trace of facts. It cannot be undone."""
        return await accept(Kind.ERASURE, request, caller, ErasureIn, lambda it: it.arguments)

    @app.post("/v1/adapters/{adapter_id}/approval", openapi_extra=_body_of(ReasonIn), **accepted)
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

    @app.get("/v1/operations/{operation_id}", dependencies=reads)
    def get_operation(operation_id: Id) -> views.OperationView:
        """How far it is; what the command printed, once it ended."""
        with reading(engine) as session:
            return views.show_operation(session, operation_id)

    @app.post("/v1/facts/{fact_id}/retraction")
    def post_retraction(fact_id: Id, caller: Ingest) -> views.FactDetail:
        """Withdraw a fact of your own source. What an adapter learned of it stays."""
        with writing(engine) as session:
            if views.show_fact(session, fact_id).source != caller.source:
                raise NotAllowed(
                    f"Fact {fact_id} is another source's; an admin may retract it.", known=True
                )
            facts.retract(session, fact_id, by=_name_of(caller), now=datetime.now(UTC))
            return views.show_fact(session, fact_id)

    @app.post("/v1/facts/{fact_id}/approval")
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
    def livez() -> dict[str, str]:
        """The process answers."""
        return {"state": "alive"}

    @app.get("/readyz")
    def readyz() -> dict[str, int]:
        """The database is at hand, at the right schema, and has a head."""
        check_at_head(engine)
        with reading(engine) as session:
            return {"head": read_head(session).release_id}

    return app


def _name_of(caller: Caller) -> str:
    """Who is on record for what was asked for."""
    return f"{caller.source} (key {caller.key_id})"


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """How a body that is read by hand, with limits, is described."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _read_model(request: Request, settings: Settings, model: type[AskedFor]) -> AskedFor:
    """The one document of a request. Raises Problem that says what is wrong with it."""
    parsed = await _read_json(request, settings)
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


async def _read_items(request: Request, settings: Settings) -> list[Any]:
    """The request's items, parsed and not yet validated; a single object is a list of one.

    NaN and lone surrogates are let through here, so that only the item that holds them is refused.
    """
    parsed = await _read_json(request, settings)
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The list holds no fact.")
    if len(items) > settings.facts.max_items:
        raise Problem(
            TOO_LARGE,
            f"The list holds {len(items)} facts; send at most {settings.facts.max_items} at once.",
        )
    return items


async def _read_json(request: Request, settings: Settings) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Compressed bodies are not taken.")
    body = await _read_body(request, settings)
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Problem(HTTPStatus.BAD_REQUEST, f"The body is not JSON{where}.") from error
    return parsed


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


def ingest(
    engine: Engine, settings: Settings, items: Sequence[Any], caller: Caller, pepper: bytes
) -> IngestResult:
    """Validate every item by itself and store the good ones, durably before this returns.

    A long request takes several transactions. One that breaks off half-way can be sent again as it
    is: what was stored before is a duplicate then.
    """
    results: list[ItemResult] = []
    for first in range(0, len(items), ITEMS_A_TRANSACTION):
        part = items[first : first + ITEMS_A_TRANSACTION]
        checked = [_check(item, settings) for item in part]
        results += _store(settings, engine, checked, caller, pepper, first=first)
    counts = [result.outcome for result in results]
    return IngestResult(
        stored=counts.count("stored"),
        duplicates=counts.count("duplicate"),
        refused=counts.count("refused"),
        items=results,
    )


def _check(item: Any, settings: Settings) -> FactIn | list[ItemProblem]:
    context = {"max_statement_bytes": settings.facts.max_statement_bytes}
    try:
        return FactIn.model_validate(item, context=context)
    except (ValidationError, RecursionError) as error:
        return item_problems(error)


def _store(
    settings: Settings,
    engine: Engine,
    checked: Sequence[FactIn | list[ItemProblem]],
    caller: Caller,
    pepper: bytes,
    *,
    first: int,
) -> list[ItemResult]:
    """Store what was found good in one transaction; the indices count from `first`."""
    results = []
    now = datetime.now(UTC)
    with writing(engine) as session:
        for index, fact in enumerate(checked, start=first):
            if isinstance(fact, FactIn):
                outcome = facts.insert_fact(
                    session,
                    fact,
                    source=caller.source,
                    recorded_by=caller.key_id,
                    held_reason=facts.reason_to_hold(fact, settings.facts),
                    pepper=pepper,
                    now=now,
                )
                results.append(_item_result(index, outcome))
            else:
                results.append(ItemResult(index=index, outcome="refused", problems=fact))
    return results


def _item_result(index: int, outcome: facts.ItemOutcome) -> ItemResult:
    if outcome.stored is Stored.ERASED:
        detail = (
            f"Fact {outcome.id}, which had this key, was erased. If it is to be known after all, "
            "send it under an external_id of its own."
        )
        problem = ItemProblem(title="erased", detail=detail, pointer="/external_id")
        return ItemResult(index=index, outcome="refused", problems=[problem])
    if outcome.stored is not Stored.CONFLICT:
        return ItemResult(
            index=index,
            outcome=outcome.stored,
            id=outcome.id,
            external_id=outcome.external_id,
            held=outcome.waits_for,
        )
    detail = (
        f"This external_id is held by fact {outcome.id} with another body (sha256 "
        f"{outcome.held_digest}, yours {outcome.digest}). A changed fact needs a key of its own."
    )
    problem = ItemProblem(title="conflict", detail=detail, pointer="/external_id")
    return ItemResult(index=index, outcome="refused", problems=[problem])


def item_problems(error: ValidationError | RecursionError) -> list[ItemProblem]:
    """The first mistakes of one item with their places. The values are not repeated."""
    if isinstance(error, RecursionError):
        return [ItemProblem(title="invalid", detail="is nested too deeply", pointer="")]
    return [
        ItemProblem(
            title="invalid",
            detail=_printable(mistake["msg"].removeprefix("Value error, "), 500),
            pointer=_pointer(mistake["loc"]),
        )
        for mistake in error.errors(include_url=False, include_context=False, include_input=False)[
            :MAX_PROBLEMS
        ]
    ]


def _pointer(place: Sequence[object]) -> str:
    """A JSON pointer (RFC 6901): in a field's name, `~` is written `~0` and `/` is written `~1`."""
    parts = (_printable(part, MAX_KEY_SHOWN) for part in place[:MAX_POINTER_PARTS])
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _printable(part: object, limit: int) -> str:
    """A name that a client sent, made safe to show: no control characters, no surrogates."""
    text = str(part)[:limit].encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else "?" for character in text)


def problem_response(status: HTTPStatus, detail: str, **more: Any) -> JSONResponse:
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
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse(body, status_code=status, media_type=PROBLEM_JSON, headers=headers)


def _answer_errors(app: FastAPI) -> None:
    """The one place that maps errors to HTTP."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return problem_response(error.status, error.detail, **error.more)

    @app.exception_handler(NotAllowed)
    async def not_allowed(_: Request, error: NotAllowed) -> JSONResponse:
        status = HTTPStatus.FORBIDDEN if error.known else HTTPStatus.UNAUTHORIZED
        return problem_response(status, str(error))

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        kinds = [kind for kind in STATUS_OF if isinstance(error, kind)]
        status = STATUS_OF[kinds[0]] if kinds else HTTPStatus.INTERNAL_SERVER_ERROR
        return problem_response(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        places = ", ".join(
            ".".join(_printable(part, MAX_KEY_SHOWN) for part in mistake["loc"])
            for mistake in error.errors()
        )
        return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, f"Cannot be used: {places}.")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        response = problem_response(status, f"{status.phrase}.")
        response.headers.update(error.headers or {})  # a 405 must say what is allowed
        return response

    @app.exception_handler(SQLAlchemyError)
    async def database_error(_: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("the database failed: %s", type(error).__name__, exc_info=error)
        if "full" in str(getattr(error, "orig", "")).lower():
            return problem_response(
                HTTPStatus.INSUFFICIENT_STORAGE, "The disk is full; nothing was stored."
            )
        return problem_response(
            HTTPStatus.SERVICE_UNAVAILABLE, "The database is not at hand; send it again later."
        )

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=error)
        return problem_response(
            HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; the log says what."
        )
