"""Compare training recipes: what is learned in both directions, and what is damaged.

    python -m benchmarks.recipe --seed 2 --facts 8 training.rate=2e-3 training.rank=32

Each run invents facts from the seed, trains the default base on them with the settings given, and
prints the gate's view of it. `--json` ends with one object. The base is converted once into --base.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapters import gate
from adapters.backbones import Backbone, load_backbone
from adapters.config import TrainingConfig
from adapters.examine import Examination, examine
from adapters.questions import leakage_probes, probes_of
from adapters.store import read_manifest
from adapters.suites import read_relations, read_suite
from adapters.types import Answer, Suite
from benchmarks.measure import described_machine
from benchmarks.trial import arguments, changed, invented, learn, ready_base, share
from service.settings import Settings, load_settings


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
    own = [probe for fact in facts for probe in probes_of(fact, relations)]
    probes = [*own, *leakage_probes(facts, own, at_most=settings.gate.leakage_questions)]

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
    verdict = gate.decide(
        before.answers,
        after.answers,
        before.passages,
        after.passages,
        settings.gate,
        relations={fact.relation for fact in facts if fact.relation},
    )
    result = {
        "seed": seed,
        "outcome": verdict.outcome,
        **{line.suite: [line.before, line.after, line.interval] for line in verdict.suites},
        "exact_share": share(after.answers, Suite.FORWARD, Suite.BACKWARD),
        **asdict(trained),
        "tokens_per_s": round(trained.tokens / trained.training_s),
    }
    print(line_of(result), flush=True)
    if options.show:
        show(after.answers)
    return result


def line_of(result: dict[str, Any]) -> str:
    parts = [f"seed {result['seed']}: {result['outcome']};"]
    for suite in (*Suite, gate.BITS_SUITE):
        if suite not in result:  # nothing was learned before, so nothing can be retained
            continue
        before, after, interval = result[suite]
        parts.append(f"{suite} {before:.3f}->{after:.3f} [{interval[0]:.3f}, {interval[1]:.3f}];")
    parts.append(
        f"loss {result['loss']}, drift {result['drift']}; "
        f"{result['training_s']} s, {result['tokens_per_s']} tokens/s"
    )
    return " ".join(parts)


def show(answers: Sequence[Answer]) -> None:
    for answer in answers:
        is_wrong = answer.contained is (answer.probe.suite is Suite.LEAKAGE)
        if answer.probe.suite in (Suite.FORWARD, Suite.BACKWARD) or is_wrong:
            mark = "+" if answer.contained else "-"
            print(f"  {mark} {answer.probe.suite}: {answer.probe.question} => {answer.text[:90]!r}")


if __name__ == "__main__":
    main()
