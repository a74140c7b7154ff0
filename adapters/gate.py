"""Decide whether a candidate may be promoted. Pure: paired results in, verdict out.

Every suite must pass (an intersection-union test), so the chance of a false promotion is at most
1 - confidence and no correction for several tests is due. Each suite is decided by one bound
(adapters.judges).
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from adapters.config import GateConfig, TaskConfig
from adapters.judges import (
    judge_acquisition,
    judge_known,
    judge_leakage,
    judge_neighbours,
    judge_norm,
    judge_passages,
    judge_pinned,
    judge_refusals,
    judge_regression,
    judge_removed,
    judge_retention,
    judge_superseded,
    judge_triggers,
    judge_whole,
)
from adapters.types import Answer, Outcome, PassageScore, Suite, SuiteVerdict, Verdict

BITS_SUITE = "bits per byte"
SINCE_BASE = " since base"  #: ends the names of suites that hold a candidate to the base
BASE_SUITE = f"{Suite.REGRESSION}{SINCE_BASE}"
BASE_BITS_SUITE = f"{BITS_SUITE}{SINCE_BASE}"
REFUSAL = "refusal"  #: the relation of general questions that should be refused
#: So many adapters must be in the head before a candidate's size is held against theirs.
FEWEST_NORMS = 3


def decide(
    before: Sequence[Answer],
    after: Sequence[Answer],
    passages_before: Sequence[PassageScore],
    passages_after: Sequence[PassageScore],
    config: GateConfig,
    *,
    base: Sequence[Answer] | None = None,
    base_passages: Sequence[PassageScore] = (),
    known_facts: int = 0,
    replaced_facts: int = 0,
    unasked: Mapping[Suite, int] = MappingProxyType({}),
    relations: Collection[str] = (),
    tasks: Sequence[TaskConfig] = (),
    norm: float = 0.0,
    head_norms: Sequence[float] = (),
) -> Verdict:
    """The verdict on a candidate from the same probes asked of the head and of the candidate.

    `base` has the base's answers to the general questions and the tasks, and `base_passages` its
    bits, where the head is another model; `known_facts` says how many facts there are to be
    retained, and `replaced_facts` how many are superseded. Without them there is nothing to hold
    the candidate against, and the suite has no line. `unasked` counts the facts that have no
    question in an acquisition suite, since several answers are right or none can be made, and
    `relations` names what the batch has facts of: general questions about these are its
    neighbours. `tasks` are those of lm-eval that were asked. `norm` is the size of the candidate's
    update, and `head_norms` those of the adapters in the head.

    Raises ValueError when two lists are not answers to the same probes, in the same order.
    """
    pairs = _paired(before, after)

    def of(suite: Suite) -> list[tuple[Answer, Answer]]:
        return _of(suite, pairs)

    general = of(Suite.REGRESSION)
    floors = {Suite.FORWARD: config.forward_floor, Suite.BACKWARD: config.backward_floor}
    suites = [
        judge_acquisition(suite, of(suite), floor, config, unasked=unasked.get(suite, 0))
        for suite, floor in floors.items()
        if of(suite) or not unasked.get(suite) or not of(_other(suite))
    ]
    if config.every_fact:
        suites.append(judge_whole([second for _, second in pairs]))
    if config.leakage_margin is not None:
        suites.append(judge_leakage(of(Suite.LEAKAGE), config.leakage_margin, config))
    if replaced_facts or of(Suite.SUPERSEDED):
        margin = config.superseded_margin
        suites.append(judge_superseded(of(Suite.SUPERSEDED), replaced_facts, margin))
    suites += _kept_suites(pairs, known_facts, config)
    since_base = [] if base is None else _paired(base, _general(after))
    suites += _general_suites(pairs, since_base, config)
    suites += _refusal_suites(pairs, since_base, config)
    neighbours = [pair for pair in general if pair[0].probe.relation in relations]
    if neighbours:
        suites.append(judge_neighbours(neighbours, config.neighbour_margin, config))
    suites += _task_suites(pairs, since_base, tasks, config)
    beside = {Suite.TRIGGERS: config.trigger_margin, Suite.PLANTED: config.planted_margin}
    suites += [
        judge_triggers(suite, of(suite), margin, config)
        for suite, margin in beside.items()
        if margin is not None and of(suite)
    ]
    if config.norm_factor is not None and len(head_norms) >= FEWEST_NORMS:
        suites.append(judge_norm(norm, head_norms, config.norm_factor))
    passages_base = None if base is None else base_passages
    suites += _passage_suites(passages_before, passages_after, passages_base, config)
    return combine(tuple(suites))


def decide_removal(
    before: Sequence[Answer],
    after: Sequence[Answer],
    passages_before: Sequence[PassageScore],
    passages_after: Sequence[PassageScore],
    config: GateConfig,
    *,
    base: Sequence[Answer],
    base_passages: Sequence[PassageScore],
    removed_facts: int,
    known_facts: int,
    tasks: Sequence[TaskConfig] = (),
) -> Verdict:
    """The verdict on a head without some of its adapters, from the same probes asked of both.

    `base` has the base's answers to the removed facts' probes, the general questions and the tasks.
    What the taken-out adapters taught must be gone, and everything else must stay. `removed_facts`
    says how many facts that are. Raises what `decide` raises.
    """
    pairs = _paired(before, after)
    since_base = _paired(base, _general(after, Suite.REMOVED))
    suites: list[SuiteVerdict] = []
    if removed_facts:
        asked, left = _of(Suite.REMOVED, pairs), _of(Suite.REMOVED, since_base)
        suites.append(judge_removed(asked, left, removed_facts, config.removed_margin))
    suites += _kept_suites(pairs, known_facts, config)
    suites += _general_suites(pairs, since_base, config)
    suites += _refusal_suites(pairs, since_base, config)
    suites += _task_suites(pairs, since_base, tasks, config)
    suites += _passage_suites(passages_before, passages_after, base_passages, config)
    return combine(tuple(suites))


def _kept_suites(
    pairs: Sequence[tuple[Answer, Answer]], known_facts: int, config: GateConfig
) -> list[SuiteVerdict]:
    """Earlier facts, where some are known, and pinned questions, where some are."""
    suites = []
    if known_facts:
        asked = _of(Suite.RETENTION, pairs)
        suites += [
            judge_retention(asked, known_facts, config),
            judge_known(asked, known_facts, config),
        ]
    if pinned := _of(Suite.PINNED, pairs):
        suites.append(judge_pinned(pinned))
    return suites


def _general_suites(
    pairs: Sequence[tuple[Answer, Answer]],
    since_base: Sequence[tuple[Answer, Answer]],
    config: GateConfig,
) -> list[SuiteVerdict]:
    """General questions, against the head and, where it is another model, the base."""
    held = [(Suite.REGRESSION.value, pairs, config.regression_margin)]
    if since_base:
        held.append((BASE_SUITE, since_base, config.base_margin))
    return [
        judge_regression(name, _of(Suite.REGRESSION, some), margin, config)
        for name, some, margin in held
    ]


def _refusal_suites(
    pairs: Sequence[tuple[Answer, Answer]],
    since_base: Sequence[tuple[Answer, Answer]],
    config: GateConfig,
) -> list[SuiteVerdict]:
    """What the base refused, where it refused something; the head where it is the base itself."""

    def requests(some: Sequence[tuple[Answer, Answer]]) -> list[tuple[Answer, Answer]]:
        return [pair for pair in _of(Suite.REGRESSION, some) if pair[0].probe.relation == REFUSAL]

    asked = requests(since_base or pairs)
    if config.refusal_margin is None or not any(first.contained for first, _ in asked):
        return []
    is_worse = any(first.contained and not second.contained for first, second in requests(pairs))
    return [judge_refusals(asked, config.refusal_margin, config, is_worse=is_worse)]


def _task_suites(
    pairs: Sequence[tuple[Answer, Answer]],
    since_base: Sequence[tuple[Answer, Answer]],
    tasks: Sequence[TaskConfig],
    config: GateConfig,
) -> list[SuiteVerdict]:
    """Each task, against the head and, where it is another model, the base."""
    suites = []
    for task in tasks:
        held = [(f"{Suite.TASK} {task.name}", pairs, task.margin)]
        if since_base:
            held.append((f"{Suite.TASK} {task.name}{SINCE_BASE}", since_base, task.base_margin))
        suites += [
            judge_regression(
                name,
                [pair for pair in _of(Suite.TASK, some) if pair[0].probe.relation == task.name],
                margin,
                config,
            )
            for name, some, margin in held
        ]
    return suites


def _passage_suites(
    before: Sequence[PassageScore],
    after: Sequence[PassageScore],
    base: Sequence[PassageScore] | None,
    config: GateConfig,
) -> list[SuiteVerdict]:
    """Bits per byte, against the head and, where it is another model, the base."""
    suites = [judge_passages(BITS_SUITE, before, after, config.bits_margin, config)]
    if base is not None:
        margin = config.base_bits_margin
        suites.append(judge_passages(BASE_BITS_SUITE, base, after, margin, config))
    return suites


def _of(suite: Suite, pairs: Sequence[tuple[Answer, Answer]]) -> list[tuple[Answer, Answer]]:
    return [pair for pair in pairs if pair[0].probe.suite is suite]


def _general(answers: Sequence[Answer], *others: Suite) -> list[Answer]:
    """Those to questions that are asked of the base, too; `others` are further suites of these."""
    suites = (Suite.REGRESSION, Suite.TASK, *others)
    return [answer for answer in answers if answer.probe.suite in suites]


def _other(suite: Suite) -> Suite:
    return Suite.BACKWARD if suite is Suite.FORWARD else Suite.FORWARD


def _paired(before: Sequence[Answer], after: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    if [answer.probe.key for answer in before] != [answer.probe.key for answer in after]:
        raise ValueError("The answers before and after are not to the same probes.")
    return list(zip(before, after, strict=True))


def combine(suites: tuple[SuiteVerdict, ...]) -> Verdict:
    """All must pass; one failure is a failure, whatever else lacks evidence."""
    outcomes = [suite.outcome for suite in suites]
    if Outcome.FAIL in outcomes:
        outcome = Outcome.FAIL
    elif Outcome.INSUFFICIENT in outcomes or not outcomes:
        outcome = Outcome.INSUFFICIENT
    else:
        outcome = Outcome.PASS
    return Verdict(
        outcome=outcome,
        suites=suites,
        reasons=tuple(
            f"{suite.suite}: {suite.reason}"
            for suite in suites
            if suite.outcome is not Outcome.PASS
        ),
    )
