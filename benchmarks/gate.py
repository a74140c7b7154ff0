"""Does the gate decide rightly? Candidates of known true effect, drawn thousands of times.

    python -m benchmarks.gate --runs 2000 --json

Every candidate is drawn at random around its truth and put through `adapters.gate.decide` whole,
with the margins of the settings file. Four questions are answered:

* How often is a candidate let through whose true harm is at the margin of one suite, and which is
  perfect in all others? At most 1 - confidence of them may be, for each suite.
* How often is a harmless one kept out, by the number of general questions and of facts?
* Do the one-sided bounds hold the truth as often as they say?
* When each of 500 refreshes loses a little, less than one of them could show, after how many is
  that stopped, and how much is lost by then? The same of facts forgotten.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from adapters.config import GateConfig
from adapters.gate import BASE_SUITE, BITS_SUITE, decide
from adapters.intervals import exact_interval, paired_interval
from adapters.judges import KNOWN_SUITE
from adapters.types import Answer, Outcome, PassageScore, Probe, ProbeOrigin, Suite, Verdict
from benchmarks.damaged import summed_up
from benchmarks.measure import described_machine, read_lines
from benchmarks.trial import arguments
from service.settings import load_settings

WORDINGS = 2
RELATION = "capital_of"
REFRESHES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of a candidate, and how much is asked of it.

    The defaults are those of a harmless one that learned well.
    """

    forward: float = 0.9  #: the chance that a fact is known
    backward: float = 0.85
    leakage: float = 0.0  #: of a question about a name that does not exist, to get a new answer
    retention_lost: float = 0.01  #: of an earlier fact in one direction
    retention_gained: float = 0.01
    lost: float = 0.015  #: of a general question, since the head
    gained: float = 0.015
    rise: float = 0.0  #: mean bits per byte
    facts: int = 24
    neighbour_lost: float | None = (
        None  #: of those about the batch's relations; None: as the others
    )
    questions: int = 700
    neighbours: int = 80  #: of the questions
    leakage_questions: int = 128
    known_facts: int = 200
    passages: int = 18


PERFECT = Truth(
    forward=1.0,
    backward=1.0,
    retention_lost=0.0,
    retention_gained=0.0,
    lost=0.0,
    gained=0.0,
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damaged", type=Path, help="what benchmarks.damaged kept")
    options = parser.parse_args()
    config = load_settings(options.config).gate
    rng = Random(options.seed)
    result = {
        "false_promotion": false_promotion(config, options.runs, rng),
        "false_rejection": false_rejection(config, options.runs, rng),
        "coverage": coverage(config, options.runs, rng),
        **drift(config, rng),
        **(summed_up(read_lines(options.damaged)) if options.damaged else {}),
    }
    if options.json:
        print(json.dumps({**described_machine(), "runs": options.runs, **result}))


def false_promotion(config: GateConfig, runs: int, rng: Random) -> dict[str, Any]:
    """For each suite, of candidates exactly at its margin, the share that passes."""
    at_margin = {
        Suite.FORWARD: replace(PERFECT, forward=config.forward_floor),
        Suite.BACKWARD: replace(PERFECT, backward=config.backward_floor),
        Suite.LEAKAGE: replace(PERFECT, leakage=config.leakage_margin or 1.0),
        Suite.RETENTION: replace(PERFECT, retention_lost=config.retention_margin),
        Suite.REGRESSION: replace(
            PERFECT, lost=config.regression_margin + 0.02, gained=0.02, neighbours=0
        ),
        Suite.NEIGHBOURS: replace(
            PERFECT, neighbour_lost=config.neighbour_margin + 0.02, gained=0.02, lost=0.02
        ),
        BITS_SUITE: replace(PERFECT, rise=config.bits_margin),
    }
    shares = {}
    for suite, truth in at_margin.items():
        passed = sum(passes(truth, config, rng) for _ in range(runs))
        low, high = exact_interval(passed / runs, runs, confidence=0.975)
        shares[str(suite)] = {"share": round(passed / runs, 4), "interval": rounded(low, high)}
        print(f"at the margin of {suite}: {passed} of {runs} pass", flush=True)
    return shares


def false_rejection(config: GateConfig, runs: int, rng: Random) -> dict[str, Any]:
    """Of harmless candidates, the share that does not pass, and the suite that kept it out."""
    shares: dict[str, Any] = {}
    for facts in (8, 12, 24, 48):
        for questions in (200, 400, 700):
            truth = Truth(facts=facts, questions=questions)
            kept_out: dict[str, int] = {}
            rejected = 0
            for _ in range(runs // 4):
                verdict = verdict_on(truth, config, rng)
                rejected += verdict.outcome is not Outcome.PASS
                for line in verdict.suites:
                    if line.outcome is not Outcome.PASS:
                        kept_out[line.suite] = kept_out.get(line.suite, 0) + 1
            share = round(rejected / (runs // 4), 4)
            shares[f"{facts} facts, {questions} questions"] = {
                "share": share,
                "by": {suite: round(n / (runs // 4), 4) for suite, n in kept_out.items()},
            }
            print(f"harmless, {facts} facts, {questions} questions: {share} kept out", flush=True)
    return shares


def coverage(config: GateConfig, runs: int, rng: Random) -> dict[str, float]:
    """How often the lower bound lies at or below the truth: at least `confidence` it should."""
    held = {}
    for facts, true in ((8, 0.9), (16, 0.8), (48, 0.5)):
        bounds = [
            exact_interval(binomial(rng, facts, true) / facts, facts, confidence=config.confidence)
            for _ in range(runs)
        ]
        held[f"exact, {facts} facts at {true}"] = covered([low for low, _ in bounds], true)
    for asked, lost, gained in ((200, 0.05, 0.02), (200, 0.1, 0.0), (600, 0.03, 0.03)):
        lows = []
        for _ in range(runs):
            changes = rng.choices((-1, 1, 0), (lost, gained, 1 - lost - gained), k=asked)
            low, _ = paired_interval(
                gained=changes.count(1),
                lost=changes.count(-1),
                asked=asked,
                confidence=config.confidence,
            )
            lows.append(low)
        name = f"Tango, {asked} questions, {lost} lost and {gained} gained"
        held[name] = covered(lows, gained - lost)
    print(f"coverage of the lower bounds: {held}", flush=True)
    return held


def drift(config: GateConfig, rng: Random) -> dict[str, Any]:
    """Refreshes in a row: each loses one right answer in 250 for good, and some for the moment."""
    caught: dict[str, Any] = {}
    for name, is_held in (("drift_caught_after", True), ("drift_without_base", False)):
        ends = [drift_until(config, rng, is_held=is_held) for _ in range(25)]
        stopped = sorted(after for after, _ in ends if after)
        caught[name] = {
            "stopped": f"{len(stopped)} of {len(ends)}",
            "median": stopped[len(stopped) // 2] if stopped else None,
            "least": stopped[0] if stopped else None,
            "most": stopped[-1] if stopped else None,
            "lost_by_then": rounded(*sorted(loss for _, loss in ends)[:: len(ends) - 1]),
        }
        print(f"{name}: {caught[name]}", flush=True)
    ends = [forgetting_until(config, rng) for _ in range(25)]
    stopped = sorted(after for after, _ in ends if after)
    caught["forgetting_caught_after"] = {
        "stopped": f"{len(stopped)} of {len(ends)}",
        "median": stopped[len(stopped) // 2] if stopped else None,
        "known_by_then": rounded(*sorted(known for _, known in ends)[:: len(ends) - 1]),
    }
    print(f"forgetting_caught_after: {caught['forgetting_caught_after']}", flush=True)
    return caught


def forgetting_until(config: GateConfig, rng: Random) -> tuple[int | None, float]:
    """Refreshes that forget one known fact in 250, of 200: when one is stopped, and the share left.

    A sample of 48 cannot show a single one of these losses.
    """
    known = [True] * 200
    for at in range(1, REFRESHES + 1):
        drawn = rng.sample(range(len(known)), config.retention_facts)
        before = answers(Suite.RETENTION, [known[fact] for fact in drawn])
        known = [is_known and rng.random() >= 1 / 250 for is_known in known]
        after = answers(Suite.RETENTION, [known[fact] for fact in drawn])
        lines = decide(before, after, [], [], config, known_facts=len(known)).suites
        if any(
            line.suite in (Suite.RETENTION, KNOWN_SUITE) and line.outcome is not Outcome.PASS
            for line in lines
        ):
            return at, sum(known) / len(known)
    return None, sum(known) / len(known)


def drift_until(config: GateConfig, rng: Random, *, is_held: bool) -> tuple[int | None, float]:
    """After how many refreshes a general suite stops one, and the share lost since the base."""
    base = [rng.random() < 0.8 for _ in range(600)]
    lasting = head = list(base)
    for at in range(1, REFRESHES + 1):
        lasting = [right and rng.random() >= 1 / 250 for right in lasting]
        after = [right is not (rng.random() < 0.01) for right in lasting]
        verdict = decide(
            answers(Suite.REGRESSION, head),
            answers(Suite.REGRESSION, after),
            [],
            [],
            config,
            base=answers(Suite.REGRESSION, base) if is_held else None,
        )
        stops = [
            line
            for line in verdict.suites
            if line.suite in (Suite.REGRESSION, BASE_SUITE) and line.outcome is not Outcome.PASS
        ]
        if stops:
            return at, round((sum(base) - sum(lasting)) / len(base), 3)
        head = after
    return None, round((sum(base) - sum(lasting)) / len(base), 3)


Drawn = tuple[list[Answer], list[Answer], list[PassageScore], list[PassageScore]]


def draw(truth: Truth, config: GateConfig, rng: Random) -> Drawn:
    """One candidate's answers and the head's."""
    before: list[Answer] = []
    after: list[Answer] = []
    for suite, known in ((Suite.FORWARD, truth.forward), (Suite.BACKWARD, truth.backward)):
        marks = [rng.random() < known for _ in range(truth.facts)]
        before += answers(suite, [False] * len(marks), wordings=WORDINGS)
        after += answers(suite, marks, wordings=WORDINGS)
    leaked = [rng.random() < truth.leakage for _ in range(truth.leakage_questions)]
    before += answers(Suite.LEAKAGE, [False] * len(leaked))
    after += answers(Suite.LEAKAGE, leaked)
    known_then, known_now = retained(truth, config, rng)
    before += known_then
    after += known_now
    neighbours = min(truth.neighbours, truth.questions)
    near = truth.lost if truth.neighbour_lost is None else truth.neighbour_lost
    changes = [
        rng.choices((-1, 1, 0), (lost, truth.gained, 1 - lost - truth.gained))[0]
        for lost in [near] * neighbours + [truth.lost] * (truth.questions - neighbours)
    ]
    before += answers(Suite.REGRESSION, [change <= 0 for change in changes], related=neighbours)
    after += answers(Suite.REGRESSION, [change >= 0 for change in changes], related=neighbours)
    noise = [rng.gauss(truth.rise, 0.03) for _ in range(truth.passages)]
    return before, after, passages([0.0] * len(noise)), passages(noise)


def retained(truth: Truth, config: GateConfig, rng: Random) -> tuple[list[Answer], list[Answer]]:
    """As many facts as the gate asks; of those known the true shares changed in both directions."""
    lost, gained = (
        round(share * truth.known_facts) for share in (truth.retention_lost, truth.retention_gained)
    )
    population = [-1] * lost + [1] * gained + [0] * (truth.known_facts - lost - gained)
    drawn = rng.sample(population, config.retention_facts)
    before = [change <= 0 for change in drawn for _ in (Suite.FORWARD, Suite.BACKWARD)]
    after = [change >= 0 for change in drawn for _ in (Suite.FORWARD, Suite.BACKWARD)]
    return answers(Suite.RETENTION, before, a_fact=2), answers(Suite.RETENTION, after, a_fact=2)


def answers(
    suite: Suite,
    right: Sequence[bool],
    *,
    wordings: int = 1,
    a_fact: int = 1,
    related: int = 0,
) -> list[Answer]:
    """One answer a wording; every `a_fact` clusters in a row are of one fact.

    The first `related` are about the batch's relation.
    """
    return [
        Answer(
            probe=Probe(
                key=f"{suite}/{at}/{wording}",
                suite=suite,
                cluster=str(at),
                question="",
                answers=(),
                origin=ProbeOrigin.SUITE,
                fact=str(at // a_fact),
                relation=RELATION if at < related else None,
            ),
            text="",
            exact=False,
            contained=is_right,
            recall=0.0,
        )
        for at, is_right in enumerate(right)
        for wording in range(wordings)
    ]


def passages(bits: Sequence[float]) -> list[PassageScore]:
    return [PassageScore(passage=str(at), bits_per_byte=some) for at, some in enumerate(bits)]


def verdict_on(truth: Truth, config: GateConfig, rng: Random) -> Verdict:
    return decide(
        *draw(truth, config, rng),
        config=config,
        known_facts=truth.known_facts,
        relations=[RELATION],
    )


def passes(truth: Truth, config: GateConfig, rng: Random) -> bool:
    return verdict_on(truth, config, rng).outcome is Outcome.PASS


def binomial(rng: Random, count: int, share: float) -> int:
    return sum(rng.random() < share for _ in range(count))


def covered(lows: Sequence[float], truth: float) -> float:
    return round(sum(low <= truth for low in lows) / len(lows), 4)


def rounded(*values: float) -> list[float]:
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    main()
