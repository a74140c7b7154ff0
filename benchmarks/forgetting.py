"""Ten batches in a row: what is known of each when it is merged and at the end, and what is lost.

    python -m benchmarks.forgetting --json > docs/forgetting.json
    python -m benchmarks.forgetting --draw docs/forgetting.json

Each batch's facts are invented and trained on the release before, as a refresh does, but nothing is
left out by a gate: every adapter is merged. The same run is made with replay and the general rows
as they are set (`on`), and with replay off (`off`). After each merge every fact so far is asked, in
both directions, and the general questions and passages of the regression suite. Both runs take
hours on a small machine: with --work, adapters and scores are kept in that folder, and a run that
was cut off goes on after its last whole batch.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from adapters.backbones import Backbone, load_backbone
from adapters.compose import write_snapshot
from adapters.config import TrainingConfig
from adapters.probes import ask, score_passages
from adapters.questions import probes_of
from adapters.store import canonical_digest, read_manifest
from adapters.suites import read_relations, read_suite
from adapters.types import Answer, Fact, Probe, Suite
from benchmarks.measure import add_line, described_machine, read_lines
from benchmarks.trial import arguments, changed, compose, invented, ready_base, share, train_adapter
from service.known_facts import draw_evenly
from service.settings import Settings, load_settings

DIRECTIONS = (Suite.FORWARD, Suite.BACKWARD)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--facts", type=int, default=12, help="in a batch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["on", "off"])
    parser.add_argument("--work", type=Path, help="where adapters and scores are kept")
    parser.add_argument("changes", nargs="*", help="training.KEY=VALUE, for both runs")
    parser.add_argument("--draw", type=Path, help="draw the numbers of this file beside it, as SVG")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    settings = load_settings(options.config)
    ready_base(settings, options.base)
    training = changed(settings.training, options.changes)
    ways = {"on": {}, "off": {"replay_facts": 0}}
    result = {
        way: run(settings, training.model_copy(update=changes), options, way)
        for way, changes in ways.items()
        if options.only in (None, way)
    }
    if options.json:
        about = {"facts_a_batch": options.facts, "changes": options.changes}
        print(json.dumps({**described_machine(), **about, **result}))


def run(
    settings: Settings, config: TrainingConfig, options: argparse.Namespace, way: str
) -> dict[str, Any]:
    """All batches in a row; those whose scores are kept from an earlier try are not made again."""
    batches = list(cut(invented(options.seed, options.batches * options.facts), options.facts))
    relations = read_relations(settings.suites.relations)
    probes = [
        [probe for fact in batch for probe in probes_of(fact, relations)] for batch in batches
    ]
    general = read_suite(settings.suites.regression)
    key = canonical_digest(
        [
            config.model_dump(mode="json"),
            options.seed,
            options.facts,
            read_manifest(options.base)["digest"],
        ]
    )
    with nullcontext(options.work) if options.work else TemporaryDirectory() as kept:
        folder = Path(kept) / f"{way}-{key[:8]}"
        adapters = [folder / f"adapter-{at}" for at in range(len(batches))]
        lines, snapshot = folder / "merges.jsonl", folder / "snapshot"
        merges = read_lines(lines)[: len(batches) + 1]
        if not merges:
            base = load_backbone(options.base, settings.base)
            merges.append(scored(base, general.probes, general.passages))
            add_line(lines, merges[-1])
        write_snapshot(options.base, adapters[: len(merges) - 1], snapshot, settings.base, about={})
        for at in range(len(merges) - 1, len(batches)):
            train_adapter(
                settings,
                config,
                batches[at],
                base=options.base,
                snapshot=snapshot,
                folder=adapters[at],
                replayed=draw_evenly(batches[:at], at_most=config.replay_facts, seed=at),
            )
            head = compose(settings, options.base, adapters[: at + 1], snapshot)
            recall = [recall_of(head, some) for some in probes[: at + 1]]
            merges.append({**scored(head, general.probes, general.passages), "recall": recall})
            add_line(lines, merges[-1])
            print(f"{way}, batch {at + 1}: {merges[-1]}", flush=True)
    return summed_up(merges)


def cut(facts: Sequence[Fact], size: int) -> Iterator[Sequence[Fact]]:
    for start in range(0, len(facts), size):
        yield facts[start : start + size]


def recall_of(backbone: Backbone, probes: Sequence[Probe]) -> dict[str, float]:
    answers = [answer for _, answer in ask(backbone, probes, at_most_tokens=32)]
    return {suite.split()[-1]: share(answers, suite) for suite in DIRECTIONS}


def scored(
    backbone: Backbone, probes: Sequence[Probe], passages: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    answers: list[Answer] = [answer for _, answer in ask(backbone, probes, at_most_tokens=32)]
    return {
        "regression": share(answers, Suite.REGRESSION),
        "bits_per_byte": round(
            mean(score.bits_per_byte for score in score_passages(backbone, passages)), 4
        ),
    }


def summed_up(merges: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was known when merged and at the end, and the change of the general questions."""
    at_merge = [merge["recall"][-1] for merge in merges[1:]]
    at_end = merges[-1]["recall"]
    retained = [
        round(end[direction] / then[direction], 3)
        for then, end in zip(at_merge, at_end, strict=True)
        for direction in ("forward", "backward")
        if then[direction]
    ]
    return {
        "recall_at_merge": {
            direction: round(mean(one[direction] for one in at_merge), 3)
            for direction in ("forward", "backward")
        },
        "worst_retained": min(retained),
        "regression_change": round(merges[-1]["regression"] - merges[0]["regression"], 3),
        "bits_change": round(merges[-1]["bits_per_byte"] - merges[0]["bits_per_byte"], 4),
        "at_merge": at_merge,
        "at_end": at_end,
        "merges": merges,
    }


def draw(path: Path) -> None:
    """Recall when merged, recall at the end and regression after each merge; needs matplotlib."""
    from matplotlib import pyplot as plt

    result = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    ways = [way for way in ("on", "off") if way in result]
    figure, axes = plt.subplots(1, len(ways), figsize=(5 * len(ways), 3.6), sharey=True)
    for axis, way in zip([axes] if len(ways) == 1 else axes, ways, strict=True):
        run_of = result[way]
        batches = range(1, len(run_of["at_merge"]) + 1)
        for direction, colour in (("forward", "tab:blue"), ("backward", "tab:orange")):
            then = [one[direction] for one in run_of["at_merge"]]
            end = [one[direction] for one in run_of["at_end"]]
            axis.plot(batches, then, "--", color=colour, label=f"{direction}, when merged")
            axis.plot(batches, end, "-", color=colour, label=f"{direction}, at the end")
        general = [merge["regression"] for merge in run_of["merges"][1:]]
        axis.plot(batches, general, ":", color="black", label="general questions after merge")
        axis.set(title=f"replay {way}", xlabel="batch", ylim=(0, 1.02))
    figure.axes[0].set_ylabel("share of right answers")
    figure.axes[0].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
