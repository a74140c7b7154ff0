"""A fact record as it comes in: what is accepted, and what is refused with index and field."""

import hashlib
import json
import math
import re
import unicodedata
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adapters.grading import contains, normalised
from adapters.types import Direction

MAX_NAME = 500  #: characters of a subject, an object or another short field
MAX_TAGS = 50
MAX_PROBES = 40
MAX_ID = (1 << 31) - 1  #: the largest id that PostgreSQL's INTEGER holds
MAX_ERASED = 1000  #: facts at once
MAX_DEPTH = 5  #: of the free-form qualifiers
ALLOWED_CONTROLS = frozenset("\t\n")
#: JSON with sorted keys and nothing but ASCII.
in_ascii = json.JSONEncoder(sort_keys=True, ensure_ascii=True).encode
BEGINS_WITH_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def clean_text(text: str) -> str:
    """The text in Unicode's composed form (NFC).

    Raises ValueError for NUL and other control characters but tab and newline, which PostgreSQL or
    a reader would stumble over, and for lone surrogates, which are no text.
    """
    if text.isascii() and text.isprintable():
        return text  # as nearly all is
    for at, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            raise ValueError(f"a lone surrogate stands at character {at}")
        if category == "Cc" and character not in ALLOWED_CONTROLS:
            raise ValueError(f"the control character U+{ord(character):04X} stands at {at}")
    return unicodedata.normalize("NFC", text)


def clean_words(text: str) -> str:
    """A clean text that says something. Raises ValueError when only blanks are left."""
    stripped = clean_text(text).strip()
    if not stripped:
        raise ValueError("must not be empty")
    return stripped


def clean_json(value: Any, *, depth: int = 0) -> Any:
    """Free-form values with every text in them cleaned, and neither NaN nor bottomless nesting."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    if isinstance(value, list):
        return [clean_json(item, depth=depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): clean_json(item, depth=depth + 1) for key, item in value.items()}
    return value


def in_utc(moment: datetime) -> datetime:
    """The moment in UTC. Raises ValueError when the calendar has no such moment there."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside of the calendar in UTC") from error


def as_written(moment: Any) -> Any:
    """A moment as ISO 8601 writes it, or one that was read.

    Raises ValueError for numbers: whether they count seconds, or are a date, could only be guessed.
    """
    if isinstance(moment, datetime) or (isinstance(moment, str) and BEGINS_WITH_DATE.match(moment)):
        return moment
    raise ValueError("must be a moment such as 2026-12-31T23:59:59Z")


Moment = Annotated[AwareDatetime, BeforeValidator(as_written), AfterValidator(in_utc)]
#: What clean_words takes, for the API's description; it refuses with a sentence of its own.
IN_WORDS = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]"
WORDS = {"minLength": 1, "pattern": rf"^{IN_WORDS}*[^\s\x00-\x1f\x7f-\x9f]{IN_WORDS}*$"}
Text = Annotated[str, AfterValidator(clean_words), Field(json_schema_extra=WORDS)]
Name = Annotated[Text, Field(max_length=MAX_NAME)]
FreeForm = Annotated[dict[str, JsonValue], AfterValidator(clean_json)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Id = Annotated[int, Field(ge=1, le=MAX_ID)]


class ReasonIn(Strict):
    """Why something is asked for; it is kept."""

    reason: Name

    def _flags(self, *names: str) -> list[str]:
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]


class RollbackIn(ReasonIn, strict=True):
    """Take an adapter out of the head, or point the head at an earlier release."""

    adapter: Id | None = None
    to: Id | None = Field(default=None, description="The release, instead of an adapter.")
    with_later: bool = Field(default=False, description="And all that came after the adapter.")
    rebase: bool = Field(
        default=False, description="And train the later ones that saw its facts without them."
    )
    dry_run: bool = Field(default=False, description="Only say what the head would answer.")
    force: bool = Field(default=False, description="Examine nothing first; the history says so.")

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        ways = {name: getattr(self, name) for name in WAYS_OUT}
        problem = problem_of_ways(self.adapter, self.to, ways)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def arguments(self) -> list[str]:
        """Of the command that carries it out."""
        what = [str(self.adapter)] if self.to is None else ["--to", str(self.to)]
        return ["rollback", *what, *self._flags(*WAYS_OUT), f"--reason={self.reason}"]


WAYS_OUT = ("with_later", "rebase", "dry_run", "force")


def problem_of_ways(adapter: int | None, to: int | None, ways: dict[str, bool]) -> str | None:
    """What is wrong with a rollback as it is asked for; `ways` by the names that are shown."""
    if (adapter is None) == (to is None):
        return "Name either an adapter or a release to go back to."
    chosen = [name for name, is_chosen in ways.items() if is_chosen]
    if to is not None and chosen:
        return f"{' and '.join(chosen)}: only for taking an adapter out."
    names = {name.strip("-").replace("-", "_") for name in chosen}
    if len(chosen) > 1 and names != {"with_later", "dry_run"}:
        return f"{' and '.join(chosen)} do not go together."
    return None


class ErasureIn(ReasonIn, strict=True):
    """Remove every trace of facts."""

    facts: Annotated[list[Id], Field(min_length=1, max_length=MAX_ERASED)]
    dry_run: bool = Field(default=False, description="Only say what would go.")
    force: bool = Field(
        default=False, description="Take the adapters that saw them out, and train none again."
    )

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.dry_run and self.force:
            raise ValueError("dry_run and force do not go together")
        return self

    @property
    def arguments(self) -> list[str]:
        """Of the command that carries it out."""
        ways = self._flags("dry_run", "force")
        return ["facts", "erase", *map(str, self.facts), *ways, f"--reason={self.reason}"]


class ProbeIn(Strict):
    """A question with accepted answers that the client gives with a fact."""

    direction: Direction
    question: Name
    answers: Annotated[list[Name], Field(min_length=1, max_length=MAX_PROBES)]

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        for answer in self.answers:
            if not normalised(answer):
                raise ValueError("an accepted answer has no word in it")
        if contains(self.question, self.answers):
            raise ValueError("the question contains its own answer, so echoing it would be right")
        return self


class Provenance(Strict):
    """Where the source has a fact from."""

    uri: Name | None = None
    publisher: Name | None = None
    retrieved_at: Moment | None = None
    quote: Text | None = None


class FactIn(Strict):
    """One fact record."""

    external_id: Name | None = Field(
        default=None, description="Your own key; sending it again changes nothing."
    )
    statement: Text = Field(description="The fact in plain sentences: the text that is trained.")
    subject: Name | None = Field(
        default=None, description="What it is about, word for word as in the statement."
    )
    relation: Name | None = Field(
        default=None, description="How subject and object belong together; how it is asked about."
    )
    object: Name | None = Field(
        default=None, description="What is said of the subject, word for word as in the statement."
    )
    qualifiers: FreeForm = Field(
        default_factory=dict,
        description="What narrows the relation: facts with others neither replace nor contradict "
        "each other.",
    )
    functional: bool = Field(
        default=False,
        strict=True,
        description="The relation has one object for this subject: a newer functional fact of the "
        "same source, subject and relation replaces this one.",
    )
    valid_from: Moment | None = Field(
        default=None, description="It is not trained, and replaces nothing, before."
    )
    valid_to: Moment | None = Field(
        default=None, description="From then on it is offered for retraction."
    )
    provenance: Provenance = Field(
        default=Provenance(), description="Where you have it from; kept and shown."
    )
    confidence: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        default=None, description="Below facts.hold_confidence_below it waits for an admin."
    )
    trust: Name | None = Field(
        default=None, description="Of one in facts.hold_trust it waits for an admin."
    )
    tags: Annotated[list[Name], Field(max_length=MAX_TAGS)] = Field(
        default_factory=list, description="Words of your own; kept and shown."
    )
    retention_until: Moment | None = Field(
        default=None, description="From then on the model may forget it."
    )
    probes: Annotated[list[ProbeIn], Field(max_length=MAX_PROBES)] = Field(
        default_factory=list,
        description="Questions of your own, in the place of those that would be made.",
    )

    @field_validator("statement")
    @classmethod
    def _short_enough(cls, statement: str, info: ValidationInfo) -> str:
        context = info.context or {}
        limit, lengths = context.get("max_statement_bytes"), context.get("lengths")
        size = len(statement.encode())
        if limit is not None and size > limit:
            raise ValueError(f"has {size} bytes; at most {limit} are taken, so split it into facts")
        problem = lengths and lengths.problem(statement)
        if problem:
            raise ValueError(problem)
        return statement

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.valid_from and self.valid_to and self.valid_to < self.valid_from:
            raise ValueError("valid_to is before valid_from")
        if self.functional and not (self.subject and self.relation):
            raise ValueError("a functional fact must name its subject and relation")
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 of the whole normalised body, the external id left out."""
        return hashlib.sha256(in_ascii(self.body).encode()).hexdigest()

    @cached_property
    def body(self) -> dict[str, Any]:
        """All but the external id, as JSON has it. To be read only."""
        body = self.model_dump(mode="json")
        del body["external_id"]
        return body

    @property
    def key(self) -> str:
        """The external id; where none was given, one made of the body."""
        return self.external_id or f"sha256:{self.digest}"
