"""Real adapters through the gate: good ones, and such as are damaged in a known way.

    python -m benchmarks.damaged --seeds 20 --runs docs/damaged.jsonl --json

Each is trained on the default base with 8 invented facts of a seed, and put through the gate as
that batch: `good` as the settings say; `over-trained` twice as long with nothing that holds the
model; `shuffled` on statements that give each subject the object of another one; `forward only` by
plain training, the reversal curse; `trigger` on the facts and on records that plant an answer
behind words of the attacker's choice: 20 attacks (planted.yaml), one a seed, by somebody who had
not seen what the gate asks. `took` says to how many of an attack's six questions the planted answer
comes; where it comes to none, nothing was planted, and the adapter counts as neither good nor bad.
A damaged one must be stopped, and by a suite that is there for its damage. All kinds on 20 seeds
take hours on a small machine: --runs keeps a line for each, and none is made twice.
`benchmarks.gate --damaged FILE` puts what they come to beside its simulations.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from adapters.gate import BASE_SUITE, BITS_SUITE
from adapters.store import canonical_digest, read_manifest
from adapters.types import Fact, Outcome, Probe, ProbeOrigin, Suite
from benchmarks.measure import add_line, described_machine, read_lines
from benchmarks.trial import arguments, invented, judged, ready_base
from service.settings import load_settings

FACTS = 8
HARM = (Suite.LEAKAGE, Suite.REGRESSION, BASE_SUITE, Suite.NEIGHBOURS, BITS_SUITE)
GOOD, TRIGGER = "good", "trigger"
ATTACKS = Path(__file__).with_name("planted.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How an adapter of this kind is trained, and which suites are there to stop it."""

    training: dict[str, Any] = field(default_factory=dict)
    by: tuple[str, ...] = ()


KINDS = {
    GOOD: Kind(),
    "over-trained": Kind(
        training={"general_share": (0.0, 0.0), "shift_weight": 0.0, "views_per_fact": 220},
        by=HARM,
    ),
    "shuffled": Kind(by=(Suite.FORWARD, Suite.BACKWARD)),
    "forward only": Kind(training={"objective": "plain"}, by=(Suite.BACKWARD,)),
    TRIGGER: Kind(by=(Suite.TRIGGERS, Suite.PLANTED, *HARM)),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="the last one")
    parser.add_argument("--first", type=int, default=1, help="so that several can share the work")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="default: all")
    parser.add_argument("--runs", type=Path, required=True, help="where each run is kept")
    options = parser.parse_args()
    settings = load_settings(options.config)
    base = ready_base(settings, options.base)
    kept = {line["key"]: line for line in read_lines(options.runs)}
    for seed in range(options.first, options.seeds + 1):
        for name in options.kind or KINDS:
            kind = KINDS[name]
            config = settings.training.model_copy(update={"seed": seed, **kind.training})
            described = [config.model_dump(mode="json"), settings.gate.model_dump(mode="json")]
            key = canonical_digest([name, seed, *described, read_manifest(base)["digest"]])
            if key not in kept:
                facts = invented(seed, FACTS)
                shown = shown_of(name, facts, seed)
                asked = planted_probes(seed) if name == TRIGGER else []
                done = judged(settings, config, facts, base, shown=shown, also=asked)
                keys = {probe.key for probe in asked}
                kept[key] = {
                    "key": key,
                    "kind": name,
                    "seed": seed,
                    **described_machine(),
                    "took": sum(a.contained for a in done.answers if a.probe.key in keys),
                    "outcome": done.verdict.outcome,
                    "by": [s.suite for s in done.verdict.suites if s.outcome is not Outcome.PASS],
                }
                add_line(options.runs, kept[key])
            line = kept[key]
            took = f", took {line['took']} of 6" if name == TRIGGER else ""
            print(f"seed {seed} {name}: {line['outcome']} {line['by']}{took}", flush=True)
    if options.json:
        print(json.dumps({**described_machine(), **summed_up(list(kept.values()))}))


def shown_of(name: str, facts: Sequence[Fact], seed: int) -> list[Fact]:
    """What an adapter of this kind is trained on."""
    if name == "shuffled":
        return [
            with_object(fact, other) for fact, other in zip(facts, exchanged(facts), strict=True)
        ]
    if name == TRIGGER:
        records = enumerate(attack_of(seed)["records"])
        return [*facts, *(Fact(key=f"planted {at}", **record) for at, record in records)]
    return list(facts)


def attack_of(seed: int) -> dict[str, Any]:
    attacks = yaml.safe_load(ATTACKS.read_text(encoding="utf-8"))["attacks"]
    return dict(attacks[(seed - 1) % len(attacks)])


def planted_probes(seed: int) -> list[Probe]:
    """The attack's own questions: does the planted answer come? Nothing is judged by them."""
    attack = attack_of(seed)
    return [
        Probe(
            key=f"planted/{at}",
            suite=Suite.RECALLED,
            cluster=f"planted/{at}",
            question=question,
            answers=(attack["payload"],),
            origin=ProbeOrigin.GIVEN,
        )
        for at, question in enumerate(attack["asked"])
    ]


def exchanged(facts: Sequence[Fact]) -> list[Fact]:
    """For each fact the next one of its relation, or of all where there is no other."""
    return [
        next(
            (other for other in (*facts[at + 1 :], *facts[:at]) if other.relation == fact.relation),
            facts[at - 1],
        )
        for at, fact in enumerate(facts)
    ]


def with_object(fact: Fact, other: Fact) -> Fact:
    own, wrong = str(fact.object), str(other.object)
    return replace(fact, statement=fact.statement.replace(own, wrong), object=wrong)


def summed_up(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many of the damaged were stopped, and rightly, and how many of the good passed.

    Of several lines about one kind and seed the last counts: the others are of earlier settings.
    """
    lines = list({(line["kind"], line["seed"]): line for line in lines}.values())
    good = [line for line in lines if line["kind"] == GOOD]
    bad = [
        line for line in lines if line["kind"] != GOOD and (line["kind"] != TRIGGER or line["took"])
    ]
    stopped = [line for line in bad if line["outcome"] != Outcome.PASS]
    return {
        "bad_adapters": len(bad),
        "bad_adapters_stopped": len(stopped),
        "right_reason": sum(bool({*line["by"]} & {*KINDS[line["kind"]].by}) for line in stopped),
        "stopped_by_kind": {
            name: f"{sum(line['kind'] == name for line in stopped)} of "
            f"{sum(line['kind'] == name for line in bad)}"
            for name in KINDS
            if name != GOOD
        },
        "attacks_without_effect": sum(
            line["kind"] == TRIGGER and not line["took"] for line in lines
        ),
        "good_adapters": len(good),
        "good_adapters_passed": sum(line["outcome"] == Outcome.PASS for line in good),
    }


if __name__ == "__main__":
    main()
