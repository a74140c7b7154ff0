"""Facts come in: each validated by itself, stored in groups, and given an outcome of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from adapters.lengths import StatementLengths
from service import facts
from service.auth import Caller
from service.facts import Stored
from service.group_commit import ITEMS_A_TRANSACTION, GroupCommit
from service.places import Places
from service.quotas import Quotas
from service.schemas import FactIn
from service.settings import Settings

SMALL_BYTES = 4096  #: of a request: checked where it was read, so that nobody else waits long
MAX_PROBLEMS = 20  #: of one item; a body of unknown fields must not become a larger answer
MAX_KEY_SHOWN = 60  #: characters of an unknown field's name in an answer
MAX_POINTER_PARTS = 8  #: no field that we know lies deeper
MAX_REFUSED_SHOWN = 100  #: of a stream; the others are counted


class ItemProblem(BaseModel):
    """What is wrong with one item; `pointer` is a JSON pointer into that item."""

    title: str
    detail: str
    pointer: str


Checked = FactIn | list[ItemProblem]  #: one item, or what is wrong with it
Outcome = facts.ItemOutcome | list[ItemProblem]  #: what became of one item, or what is wrong
Context = dict[str, Any]  #: what an item is checked by


class ItemResult(BaseModel):
    """What became of one item of the request."""

    index: int
    outcome: str  #: stored, duplicate or refused
    id: int | None = None
    external_id: str | None = None
    held: str | None = None  #: why it waits for an admin's approval, where it does
    #: Of a duplicate that will not be learned: why, and what to do if it is to be.
    withdrawn: str | None = None
    problems: list[ItemProblem] = Field(default_factory=list)


class IngestResult(BaseModel):
    """Outcomes in the order of the request. Whatever says stored is on the disk."""

    stored: int
    duplicates: int
    refused: int
    items: list[ItemResult]


class StreamResult(BaseModel):
    """What became of the lines of a stream. Whatever says stored is on the disk."""

    lines: int
    committed_through: int  #: send again what comes after this line; to send more does no harm
    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    items: list[ItemResult] = []  #: the first that were refused; the index is the line's, from 1


class Intake:
    """Where facts come in: quotas, validation, and the one writer."""

    def __init__(self, settings: Settings, engine: Engine, pepper: bytes) -> None:
        self.settings = settings
        self.quotas = Quotas(settings.facts.per_minute_of_source)
        self.writer = GroupCommit(settings, engine, pepper)
        self._known_lengths: StatementLengths | None = None

    async def take(self, items: Sequence[Any], caller: Caller, *, size: int) -> IngestResult:
        """Validate every item by itself and store the good ones, durably before this returns.

        A long request takes several transactions. One that breaks off half-way can be sent again
        as it is: what was stored before is a duplicate then. `size` is the body's, in bytes.
        Raises OverQuota, Overloaded, BelowReserve, and what the database raises.
        """
        self.quotas.take(caller.source, len(items))
        results: list[ItemResult] = []
        try:
            for first in range(0, len(items), ITEMS_A_TRANSACTION):
                part = items[first : first + ITEMS_A_TRANSACTION]
                checked = await self._check(_check, part, size=size)
                outcomes = await self._store(checked, caller)
                results += [_item_result(at, outcome) for at, outcome in enumerate(outcomes, first)]
        except BaseException:
            self.quotas.give_back(caller.source, len(items) - len(results))
            raise
        counts = [result.outcome for result in results]
        return IngestResult(
            stored=counts.count("stored"),
            duplicates=counts.count("duplicate"),
            refused=counts.count("refused"),
            items=results,
        )

    async def take_lines(
        self, lines: Sequence[bytes], caller: Caller, result: StreamResult
    ) -> None:
        """Store some lines of a stream, a JSON object each, in one transaction, and count them.

        At most ITEMS_A_TRANSACTION. Raises as `take` does, and counts nothing then.
        """
        numbered = [(at, line) for at, line in enumerate(lines, result.lines + 1) if line]
        self.quotas.take(caller.source, len(numbered))
        numbers, own = [at for at, _ in numbered], [line for _, line in numbered]
        try:
            checked = await self._check(_check_line, own, size=sum(map(len, own)))
            outcomes = await self._store(checked, caller)
        except BaseException:
            self.quotas.give_back(caller.source, len(numbered))
            raise
        result.lines += len(lines)
        result.committed_through = result.lines
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, facts.ItemOutcome) and outcome.stored is Stored.STORED:
                result.stored += 1
            elif isinstance(outcome, facts.ItemOutcome) and outcome.stored is Stored.DUPLICATE:
                result.duplicates += 1
            else:
                result.refused += 1
                if len(result.items) < MAX_REFUSED_SHOWN:
                    result.items.append(_item_result(number, outcome))

    def _lengths(self) -> StatementLengths | None:
        """What the base can read; None before `lorewright init` has put it there."""
        if self._known_lengths is None:
            base = Places(self.settings.state_dir).base
            try:
                self._known_lengths = StatementLengths(base, self.settings.base.blank)
            except (OSError, ValueError, LookupError):  # a refresh says what is wrong with it
                return None
        return self._known_lengths

    async def _check(
        self, check: Callable[[Any, Context], Checked], items: Sequence[Any], *, size: int
    ) -> list[Checked]:
        context = {
            "max_statement_bytes": self.settings.facts.max_statement_bytes,
            "lengths": self._lengths(),
        }

        def check_all() -> list[Checked]:
            return [check(item, context) for item in items]

        # To go to another thread and back takes as long as checking a few of them.
        return check_all() if size <= SMALL_BYTES else await run_in_threadpool(check_all)

    async def _store(self, checked: Sequence[Checked], caller: Caller) -> list[Outcome]:
        """Store what was found good in one transaction."""
        good = [
            (fact, facts.reason_to_hold(fact, self.settings.facts))
            for fact in checked
            if isinstance(fact, FactIn)
        ]
        stored: Iterator[facts.ItemOutcome] = iter(())
        if good:
            stored = iter(await self.writer.store(good, caller))
        return [next(stored) if isinstance(found, FactIn) else found for found in checked]


def _check_line(line: bytes, context: Context) -> Checked:
    try:
        return FactIn.model_validate_json(line, context=context)
    except ValidationError as error:
        return item_problems(error)


def _check(item: Any, context: Context) -> Checked:
    try:
        return FactIn.model_validate(item, context=context)
    except (ValidationError, RecursionError) as error:
        return item_problems(error)


def _item_result(index: int, outcome: Outcome) -> ItemResult:
    if isinstance(outcome, list):
        return ItemResult(index=index, outcome="refused", problems=outcome)
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
            withdrawn=outcome.withdrawn
            and f"{outcome.withdrawn}; if it is so again, send it under an external_id of its own",
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
            detail=printable(mistake["msg"].removeprefix("Value error, "), 500),
            pointer=_pointer(mistake["loc"]),
        )
        for mistake in error.errors(include_url=False, include_context=False, include_input=False)[
            :MAX_PROBLEMS
        ]
    ]


def _pointer(place: Sequence[object]) -> str:
    """A JSON pointer (RFC 6901): in a field's name, `~` is written `~0` and `/` is written `~1`."""
    parts = (printable(part, MAX_KEY_SHOWN) for part in place[:MAX_POINTER_PARTS])
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def printable(part: object, limit: int) -> str:
    """A name that a client sent, made safe to show: no control characters, no surrogates."""
    text = str(part)[:limit].encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else "?" for character in text)
