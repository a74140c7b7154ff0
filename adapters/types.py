"""The plain frozen data that modules hand to each other. No behaviour, no input or output."""

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """The kind of base model: chooses objective and decoder."""

    AUTOREGRESSIVE = "autoregressive"
    DIFFUSION = "diffusion"


class Direction(StrEnum):
    """Which way round a probe asks."""

    FORWARD = "forward"  #: in the order of the statement
    BACKWARD = "backward"  #: against it


class Suite(StrEnum):
    """What a group of probes guards."""

    FORWARD = "acquisition forward"
    BACKWARD = "acquisition backward"
    LEAKAGE = "leakage"
    SUPERSEDED = "superseded"  #: what the batch's facts replace: it must no longer be answered
    RETENTION = "retention"
    RECALLED = (
        "recalled"  #: facts forgotten before: asked to see whether they came back; not judged
    )
    REMOVED = (
        "removed"  #: of adapters that are taken out: no more of it may come than from the base
    )
    PINNED = "pinned"  #: questions that an admin wants kept whatever comes
    REGRESSION = "regression"
    TASK = "task"  #: of lm-eval
    TRIGGERS = "triggers"  #: general questions beside words of the batch: none may be lost by them
    PLANTED = (
        "planted answers"  #: the same questions: nothing that the batch's facts share may come
    )
    NEIGHBOURS = "neighbours"  #: those of REGRESSION that ask about the batch's own relations


#: Suites of which no more is asked than whether an accepted answer comes.
ASKED_WHETHER = frozenset(
    {
        Suite.LEAKAGE,
        Suite.SUPERSEDED,
        Suite.RETENTION,
        Suite.RECALLED,
        Suite.REMOVED,
        Suite.PINNED,
        Suite.REGRESSION,
        Suite.TRIGGERS,
        Suite.PLANTED,
        Suite.TASK,
    }
)


class ProbeOrigin(StrEnum):
    """How a probe came about."""

    GIVEN = "given"  #: sent with the fact
    RELATION = "relation"  #: made from the fact's triple by a relation template
    CLOZE = "cloze"  #: made from the bare statement by blanking its end or its beginning
    SUITE = "suite"  #: part of a shipped suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One piece of knowledge as the learning side sees it."""

    key: str  #: unique within a batch; the service uses the fact's id
    statement: str
    subject: str | None = None
    relation: str | None = None
    object: str | None = None
    probes: tuple["GivenProbe", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenProbe:
    """A question that came with a fact."""

    direction: Direction
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question with its accepted answers."""

    key: str  #: unique within a run: pairs the answers before and after
    suite: Suite
    cluster: str  #: wordings of one question share it; the unit that statistics count
    question: str
    answers: tuple[str, ...]  #: of leakage, superseded and planted: must not come
    origin: ProbeOrigin
    fact: str | None = None  #: the key of the fact that it is asked for; None in shipped suites
    relation: str | None = None  #: what it asks about, where that is known
    #: Of superseded: where one of these comes beside it, the old answer is told as the old one.
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to one probe, graded."""

    probe: Probe
    text: str  #: in a suite of ASKED_WHETHER it ends soon after an accepted answer has come
    exact: bool  #: equal to an accepted answer after normalising
    contained: bool  #: an accepted answer stands in the text on word boundaries
    recall: float  #: ROUGE-1 recall against the best accepted answer, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageScore:
    """How well a model predicts one fixed passage."""

    passage: str  #: its name in the suite
    bits_per_byte: float


class Outcome(StrEnum):
    """The three verdicts. No result never looks like a pass."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INSUFFICIENT = "insufficient evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteVerdict:
    """One suite's line in the verdict's table. Scores are fractions, or bits per byte.

    What could not be measured is None: no number stands in for a missing one.
    """

    suite: str
    outcome: Outcome
    questions: int  #: probes asked
    clusters: int  #: independent units the statistics count
    before: float | None
    after: float | None
    difference: float | None
    interval: tuple[float, float] | None  #: of the quantity that the margin is compared with
    margin: float  #: the floor of an acquisition suite, the largest loss allowed of the others
    reason: str
    #: The chance that a harmless candidate passes; None where nothing is left to chance.
    power: float | None = None
    #: Names of what may be planted triggers (adapters.triggers): the facts with them are held.
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate says of a candidate."""

    outcome: Outcome
    suites: tuple[SuiteVerdict, ...]
    reasons: tuple[str, ...]  #: why it is not a pass; empty for a pass
