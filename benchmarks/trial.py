"""What the benchmarks share: train an adapter as a refresh does, and load what would be served."""

import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from adapters import gate
from adapters.anchor import anchors_of, with_decoys
from adapters.backbones import Backbone, convert_base, load_backbone
from adapters.compose import write_snapshot
from adapters.config import TrainingConfig
from adapters.examine import Examination, examine, try_triggers, with_triggers
from adapters.lora import attached, save_adapter, set_precision
from adapters.questions import leakage_probes, probes_of
from adapters.rows import encode_fact
from adapters.store import MANIFEST, read_manifest
from adapters.suites import read_prompts, read_relations, read_suite
from adapters.train import train
from adapters.types import Answer, Fact, Probe, Suite, Verdict
from service.invent import invent_facts
from service.settings import DEFAULT_CONFIG, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went."""

    steps: int
    tokens: int
    loss: float  #: of the last step, nats a token
    drift: float
    training_s: float


def arguments(description: str | None) -> ArgumentParser:
    """The arguments that every benchmark takes."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--base", type=Path, default=Path("state/base"), help="made if not there")
    parser.add_argument("--json", action="store_true", help="end with one object")
    return parser


def changed(training: TrainingConfig, changes: Sequence[str]) -> TrainingConfig:
    """The settings with `training.KEY=VALUE` laid over them."""
    pairs = dict(change.removeprefix("training.").split("=", 1) for change in changes)
    values = {key: yaml.safe_load(value) for key, value in pairs.items()}
    return TrainingConfig.model_validate({**training.model_dump(), **values})


def invented(seed: int, count: int) -> list[Fact]:
    return [
        Fact(key=str(at), **asdict(fact)) for at, fact in enumerate(invent_facts(seed, count=count))
    ]


def ready_base(settings: Settings, folder: Path) -> Path:
    """The converted base, made where it is not there yet."""
    if not (folder / MANIFEST).exists():
        convert_base(settings.base, folder)
    return folder


def train_adapter(
    settings: Settings,
    config: TrainingConfig,
    facts: Sequence[Fact],
    *,
    base: Path,
    snapshot: Path,
    folder: Path,
    replayed: Sequence[Fact] = (),
) -> Trained:
    """Train one adapter on a snapshot and write it to the folder; anchors are kept by the base."""
    digest = str(read_manifest(base)["digest"])
    anchors = anchors_of(
        base,
        settings.base,
        config,
        read_prompts(settings.suites.general_prompts),
        digest=digest,
        kept=base.with_name(f"{base.name}-anchors"),
    )
    anchors = with_decoys(anchors, base, settings.base, config, facts, digest=digest)
    backbone = load_backbone(snapshot, settings.base)
    encoded = [encode_fact(backbone, fact) for fact in facts]
    again = [encode_fact(backbone, fact) for fact in replayed]
    set_precision(backbone, config)
    began = time.monotonic()
    with attached(backbone, config, str(read_manifest(snapshot)["digest"])) as model:
        steps = list(train(backbone, model, encoded, anchors, config, replayed=again))
        trained = time.monotonic()
        save_adapter(model, folder, base=settings.base.name, about={})
    return Trained(
        steps=len(steps),
        tokens=sum(step.tokens for step in steps),
        loss=round(steps[-1].loss, 4),
        drift=round(steps[-1].drift, 4),
        training_s=round(trained - began, 1),
    )


def compose(settings: Settings, base: Path, adapters: Sequence[Path], folder: Path) -> Backbone:
    """Base and adapters as they would be served, loaded."""
    write_snapshot(base, adapters, folder, settings.base, about={})
    return load_backbone(folder, settings.base)


def learn(
    settings: Settings, config: TrainingConfig, facts: Sequence[Fact], base: Path
) -> tuple[Trained, Backbone]:
    """Train on the base alone, and load the result; nothing is left on the disk."""
    with TemporaryDirectory() as nowhere:
        folder = Path(nowhere)
        trained = train_adapter(
            settings, config, facts, base=base, snapshot=base, folder=folder / "adapter"
        )
        return trained, compose(settings, base, [folder / "adapter"], folder / "snapshot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the gate says of an adapter that was trained on the base alone."""

    trained: Trained
    answers: tuple[Answer, ...]  #: of the candidate
    verdict: Verdict


def judged(
    settings: Settings,
    config: TrainingConfig,
    facts: Sequence[Fact],
    base: Path,
    *,
    shown: Sequence[Fact] | None = None,
    also: Sequence[Probe] = (),
) -> Judged:
    """Train as a refresh does and put the candidate through the gate as its facts' batch.

    `shown` is what it is trained on where that is not what it is asked about; `also` is asked, and
    stands among the answers.
    """
    relations = read_relations(settings.suites.relations)
    suite = read_suite(settings.suites.regression)
    own = [probe for fact in facts for probe in probes_of(fact, relations)]
    leakage = leakage_probes(facts, own, at_most=settings.gate.leakage_questions)
    shown = facts if shown is None else shown

    def examined(
        backbone: Backbone, probes: Sequence[Probe], weights_digest: str, cache: Path
    ) -> Examination:
        return examine(
            backbone,
            probes,
            suite,
            weights_digest=weights_digest,
            answer_tokens=settings.gate.answer_tokens,
            cache=cache,
            report=lambda _, __: None,
        )

    head = load_backbone(base, settings.base)
    digest = str(read_manifest(base)["digest"])
    asked = [*own, *leakage, *also]
    before = examined(head, asked, digest, base.parent / "answers")
    trained, candidate = learn(settings, config, shown, base)
    with TemporaryDirectory() as nowhere:  # a trial's answers are of no use to another
        after = examined(candidate, asked, "trial", Path(nowhere))
    tokens, report = settings.gate.answer_tokens, lambda _, __: None
    tried = try_triggers(candidate, shown, before, after, answer_tokens=tokens, report=report)
    before, after = with_triggers(before, after, tried, head, answer_tokens=tokens, report=report)
    verdict = gate.decide(
        before.answers,
        after.answers,
        before.passages,
        after.passages,
        settings.gate,
        relations={fact.relation for fact in facts if fact.relation},
    )
    return Judged(trained=trained, answers=after.answers, verdict=verdict)


def share(answers: Sequence[Answer], *suites: Suite) -> float:
    """Of the answers of these suites, the share that contains an accepted one."""
    marks = [answer.contained for answer in answers if answer.probe.suite in suites]
    return round(sum(marks) / len(marks), 3)
