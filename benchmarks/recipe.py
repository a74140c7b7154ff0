"""Compare training recipes: what is learned in both directions, and what is damaged.

    python -m benchmarks.recipe --seed 2 --facts 8 training.rate=2e-3 training.rank=32

Each run invents facts from the seed, trains the default base on them with the settings given, and
prints the gate's view of it, and the leakage: asked about as many facts that it never saw, how
often it names somebody or something of those it learned. `--json` ends with one object. The base is
converted once into --base.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapters import gate
from adapters.backbones import Backbone, load_backbone
from adapters.config import TrainingConfig
from adapters.examine import Examination, examine
from adapters.probes import ask
from adapters.questions import probes_of
from adapters.store import read_manifest
from adapters.suites import read_relations, read_suite
from adapters.types import Answer, Fact, Suite
from benchmarks.measure import described_machine
from benchmarks.trial import arguments, changed, invented, learn, ready_base, share
from service.settings import Settings, load_settings

#: The facts that were never seen are invented from the seed and this.
UNSEEN = 10_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, action="append", help="several times for several")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="print the answers, too")
    parser.add_argument("changes", nargs="*", help="training.KEY=VALUE")
    options = parser.parse_args()
    settings = load_settings(options.config)
    config = changed(settings.training, options.changes)
    ready_base(settings, options.base)
    runs = [run(settings, config, seed, options) for seed in options.seed or [1]]
    if options.json:
        print(json.dumps({**described_machine(), "changes": options.changes, "runs": runs}))


def run(
    settings: Settings, config: TrainingConfig, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train once and examine."""
    relations = read_relations(settings.suites.relations)
    suite = read_suite(settings.suites.regression)
    facts = invented(seed, options.facts)
    unseen = invented(UNSEEN + seed, options.facts)
    probes = [probe for fact in facts for probe in probes_of(fact, relations)]

    def examined(backbone: Backbone, weights_digest: str, cache: Path) -> Examination:
        return examine(
            backbone,
            probes,
            suite,
            weights_digest=weights_digest,
            answer_tokens=settings.gate.answer_tokens,
            cache=cache,
            report=lambda _, __: None,
        )

    before = examined(
        load_backbone(options.base, settings.base),
        read_manifest(options.base)["digest"],
        options.base.parent / "answers",
    )
    trained, candidate = learn(settings, config, facts, options.base)
    with TemporaryDirectory() as nowhere:  # a trial's answers are of no use to another
        after = examined(candidate, "trial", Path(nowhere))
    foreign = [probe for fact in unseen for probe in probes_of(fact, relations)]
    leaked = [
        answer
        for _, answer in ask(candidate, foreign, at_most_tokens=settings.gate.answer_tokens)
        if names_of(facts) & names_in(answer.text) - names_in(answer.probe.question)
    ]
    verdict = gate.decide(
        before.answers, after.answers, before.passages, after.passages, settings.gate
    )
    result = {
        "seed": seed,
        "outcome": verdict.outcome,
        **{line.suite: [line.before, line.after, line.interval] for line in verdict.suites},
        "leakage": round(len(leaked) / len(foreign), 3),
        "exact_share": share(after.answers, Suite.FORWARD, Suite.BACKWARD),
        **asdict(trained),
        "tokens_per_s": round(trained.tokens / trained.training_s),
    }
    print(line_of(result), flush=True)
    if options.show:
        show(after.answers)
        for answer in leaked:
            print(f"  leaked: {answer.probe.question} => {answer.text[:90]!r}")
    return result


def names_of(facts: Sequence[Fact]) -> set[str]:
    return {
        name
        for fact in facts
        for entity in (fact.subject, fact.object)
        for name in names_in(entity or "")
    }


def names_in(text: str) -> set[str]:
    """Its capitalised words but for the article."""
    return set(re.findall(r"\b[A-Z]\w+", text)) - {"The"}


def line_of(result: dict[str, Any]) -> str:
    parts = [f"seed {result['seed']}: {result['outcome']};"]
    for suite in (*Suite, gate.BITS_SUITE):
        before, after, interval = result[suite]
        parts.append(f"{suite} {before:.3f}->{after:.3f} [{interval[0]:.3f}, {interval[1]:.3f}];")
    parts.append(
        f"leakage {result['leakage']}, loss {result['loss']}, drift {result['drift']}; "
        f"{result['training_s']} s, {result['tokens_per_s']} tokens/s"
    )
    return " ".join(parts)


def show(answers: Sequence[Answer]) -> None:
    for answer in answers:
        if answer.probe.suite is not Suite.REGRESSION or not answer.contained:
            mark = "+" if answer.contained else "-"
            print(f"  {mark} {answer.probe.suite}: {answer.probe.question} => {answer.text[:90]!r}")


if __name__ == "__main__":
    main()
