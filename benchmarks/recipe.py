"""Compare training recipes: what is learned in both directions, and what is damaged.

    python -m benchmarks.recipe --seed 2 --facts 8 training.rate=2e-3 training.rank=32

Each run invents facts from the seed, trains the default base on them with the settings given, and
prints the gate's view of it. `--json` ends with one object. The base is converted once into --base.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from adapters import gate
from adapters.config import TrainingConfig
from adapters.types import Answer, Suite
from benchmarks.measure import described_machine
from benchmarks.trial import arguments, changed, invented, judged, ready_base, share
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
    done = judged(settings, config, invented(seed, options.facts), options.base)
    result = {
        "seed": seed,
        "outcome": done.verdict.outcome,
        **{line.suite: [line.before, line.after, line.interval] for line in done.verdict.suites},
        "exact_share": share(done.answers, Suite.FORWARD, Suite.BACKWARD),
        **asdict(done.trained),
        "tokens_per_s": round(done.trained.tokens / done.trained.training_s),
    }
    print(line_of(result), flush=True)
    if options.show:
        show(done.answers)
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
