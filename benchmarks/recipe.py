"""Compare training recipes: what is learned in both directions, and what is damaged.

    python -m benchmarks.recipe --seed 2 --facts 8 training.rate=2e-3 training.rank=32

Each run invents facts from the seed, trains the default base on them with the settings given, and
prints the gate's view of it after the named shares of the steps. `--json` ends with one object.
Nothing is stored; the base is converted once into --base.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from adapters import gate
from adapters.anchor import make_anchors
from adapters.backbones import convert_base, load_backbone
from adapters.config import TrainingConfig
from adapters.examine import Examination, examine
from adapters.lora import attach
from adapters.questions import probes_of
from adapters.rows import encode_fact
from adapters.store import MANIFEST, read_manifest
from adapters.suites import read_prompts, read_relations, read_suite
from adapters.train import train
from adapters.types import Answer, Fact, Suite
from service.invent import invent_facts
from service.settings import DEFAULT_CONFIG, Settings, load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--base", type=Path, default=Path("state/base"))
    parser.add_argument("--seed", type=int, action="append", help="several times for several")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--every", type=int, default=0, help="examine every so many steps")
    parser.add_argument("--show", action="store_true", help="print the answers, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("changes", nargs="*", help="training.KEY=VALUE")
    options = parser.parse_args()
    settings = load_settings(options.config)
    changes = dict(change.removeprefix("training.").split("=", 1) for change in options.changes)
    values = {key: yaml.safe_load(value) for key, value in changes.items()}
    config = TrainingConfig.model_validate({**settings.training.model_dump(), **values})
    if not (options.base / MANIFEST).exists():
        convert_base(settings.base, options.base)
    runs = [run(settings, config, seed, options) for seed in options.seed or [1]]
    if options.json:
        print(json.dumps({"changes": values, "runs": runs}))


def run(
    settings: Settings, config: TrainingConfig, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train once; the result of the last examination."""
    backbone = load_backbone(options.base, settings.base)
    relations = read_relations(settings.suites.relations)
    suite = read_suite(settings.suites.regression)
    facts = [
        Fact(key=str(at), statement=fact.statement, subject=fact.subject, relation=fact.relation,
             object=fact.object)
        for at, fact in enumerate(invent_facts(seed, count=options.facts))
    ]  # fmt: skip
    probes = [probe for fact in facts for probe in probes_of(fact, relations)]

    def examined(weights_digest: str, cache: Path) -> Examination:
        return examine(
            backbone,
            probes,
            suite,
            weights_digest=weights_digest,
            answer_tokens=settings.gate.answer_tokens,
            cache=cache,
            report=lambda _, __: None,
        )

    before = examined(read_manifest(options.base)["digest"], options.base.parent / "answers")
    began = time.monotonic()
    anchors = make_anchors(
        backbone,
        read_prompts(settings.suites.general_prompts),
        target_modules=config.measured_modules,
    )
    anchoring_s = time.monotonic() - began
    encoded = [encode_fact(backbone, fact) for fact in facts]
    result: dict[str, Any] = {}
    training_s, began = 0.0, time.monotonic()
    tokens = 0
    model = attach(backbone, config)
    for step in train(backbone, model, encoded, anchors, config):
        training_s += time.monotonic() - began
        tokens += step.tokens
        if step.step == step.steps or (options.every and step.step % options.every == 0):
            model.eval()
            with TemporaryDirectory() as nowhere:  # a trial's answers are of no use to another
                after = examined("trial", Path(nowhere))
            model.train()
            verdict = gate.decide(
                before.answers, after.answers, before.passages, after.passages, settings.gate
            )
            result = {
                "seed": seed,
                "step": step.step,
                "loss": round(step.loss, 4),
                "drift": round(step.drift, 4),
                "outcome": verdict.outcome,
                **{line.suite: [line.before, line.after, line.interval] for line in verdict.suites},
                "exact_share": share(after.answers, Suite.FORWARD, Suite.BACKWARD),
                "anchoring_s": round(anchoring_s),
                "training_s": round(training_s),
                "tokens_per_s": round(tokens / training_s),
            }
            print(line_of(result), flush=True)
            if options.show:
                show(after.answers)
        began = time.monotonic()
    return result


def share(answers: Sequence[Answer], *suites: Suite) -> float:
    marks = [answer.contained for answer in answers if answer.probe.suite in suites]
    return round(sum(marks) / len(marks), 3)


def line_of(result: dict[str, Any]) -> str:
    parts = [f"seed {result['seed']} step {result['step']}: {result['outcome']};"]
    for suite in (*Suite, gate.BITS_SUITE):
        before, after, interval = result[suite]
        parts.append(f"{suite} {before:.3f}->{after:.3f} [{interval[0]:.3f}, {interval[1]:.3f}];")
    parts.append(
        f"loss {result['loss']}, drift {result['drift']}; {result['anchoring_s']} + "
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
