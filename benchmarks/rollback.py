"""Take a batch out of the middle, and replace facts: what is left of them, and what of the others.

    python -m benchmarks.rollback --json              # about an hour on two cores
    python -m benchmarks.rollback --only rollback     # or: supersession

`rollback` learns four batches of 8 invented facts one after another and takes the second out: as it
is, which is examined and not carried out, and with the later adapters trained again (`--rebase` of
the command). `supersession` learns 16 functional facts, and then 10 that replace ten of them with
another object. Recall is the share of a batch's questions, both ways and in all wordings, whose
answer stands in the reply. All of it is the product's own: what the gate refuses ends the run, what
it cannot tell is let in; a fact is tried once, so that no batch has facts of another.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, select

from adapters.backbones import load_backbone
from adapters.probes import ask
from adapters.questions import RelationTemplates, probes_of, superseded_probes
from adapters.store import discard
from adapters.suites import read_relations
from adapters.types import Direction, Fact, Outcome, Probe
from benchmarks.measure import described_machine
from benchmarks.refresh import settings_for, store
from benchmarks.trial import arguments, ready_base
from service.db import make_engine, reading
from service.initialise import initialise
from service.invent import InventedFact, invent_facts
from service.known_facts import fact_of
from service.lineage import read_head
from service.models import FactRow, RefreshOutcome
from service.places import Places
from service.promotion import let_in
from service.rebase import rebase
from service.refresh import run_refresh
from service.removal import examine_removal, plan_removal
from service.settings import Settings, load_settings
from service.snapshots import compose_recipe, snapshot_of
from service.stopping import Stopping

BATCHES, FACTS = 4, 8
TAKEN_OUT = 1  #: the second
FUNCTIONAL, REPLACED = 16, 10


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the facts")
    parser.add_argument("--only", choices=["rollback", "supersession"])
    options = parser.parse_args()
    ready_base(load_settings(options.config), options.base)
    found: dict[str, Any] = {}
    for name, run in (("rollback", run_rollback), ("supersession", run_supersession)):
        if options.only in (None, name):
            with TemporaryDirectory() as nowhere:
                settings = settings_for(options.config, Path(nowhere), FUNCTIONAL, None)
                schedule = settings.schedule.model_copy(update={"tries": 1})
                settings = settings.model_copy(update={"schedule": schedule})
                Places(settings.state_dir).base.symlink_to(options.base.absolute())
                initialise(settings)
                found |= run(settings, make_engine(settings.url), options.seed)
    if options.json:
        print(json.dumps({**described_machine(), **found}))


def run_rollback(settings: Settings, engine: Engine, seed: int) -> dict[str, Any]:
    invented = invent_facts(seed, count=BATCHES * FACTS)
    adapters = []
    for at in range(BATCHES):
        records = [asdict(fact) for fact in invented[at * FACTS : (at + 1) * FACTS]]
        adapters.append(learn(settings, engine, records))
    facts = stored_facts(engine)
    parts = [facts[at * FACTS : (at + 1) * FACTS] for at in range(BATCHES)]
    base = recall(settings, Places(settings.state_dir).base, parts[TAKEN_OUT])
    before = [recall(settings, head_folder(settings, engine), part) for part in parts]
    said(f"learned: {before}, the base on batch {TAKEN_OUT + 1}: {base}")
    plan = plan_removal(engine, adapters[TAKEN_OUT])
    removal = examine_removal(settings, engine, plan, watch=lambda _: None)
    folder = Places(settings.state_dir).without(plan.recipe.digest)
    compose_recipe(settings, plan.recipe, to=folder)
    without_rebase = recall(settings, folder, parts[TAKEN_OUT])
    discard(folder)
    said(
        f"taken out as it is: {without_rebase} {removal.verdict.outcome} {removal.verdict.reasons}"
    )
    done = rebase(
        settings,
        engine,
        plan,
        by="benchmark",
        reason="benchmark",
        report=lambda _: None,
        stopping=Stopping(),
    )
    outcomes = [end.outcome for end in done.refreshes]
    verdict = None if done.removal is None else done.removal.verdict
    said(f"rebase: {outcomes} {verdict and (verdict.outcome, verdict.reasons)}")
    after = [recall(settings, head_folder(settings, engine), part) for part in parts]
    said(f"after the rebase: {after}")
    kept = [at for at in range(BATCHES) if at != TAKEN_OUT]
    return {
        "recall_before": before,
        "recall_after": after,
        "removed_fact_recall": after[TAKEN_OUT] if done.rollback else None,
        "removed_fact_recall_without_rebase": without_rebase,
        "base_fact_recall": base,
        "kept_batches_worst_change": round(min(after[at] - before[at] for at in kept), 3),
        "without_rebase": [removal.verdict.outcome, *removal.verdict.reasons],
        "rebase": [*outcomes, *([verdict.outcome, *verdict.reasons] if verdict else [])],
    }


def run_supersession(settings: Settings, engine: Engine, seed: int) -> dict[str, Any]:
    invented = invent_facts(seed, count=2 * FUNCTIONAL)
    old, fresh = invented[:FUNCTIONAL], invented[FUNCTIONAL:]
    learn(settings, engine, [{**asdict(fact), "functional": True} for fact in old])
    neighbours = stored_facts(engine)[REPLACED:]
    known = recall(settings, head_folder(settings, engine), neighbours)
    replacing = [replaced(one, other) for one, other in zip(old[:REPLACED], fresh, strict=False)]
    learn(settings, engine, replacing)
    facts = stored_facts(engine)
    pairs = list(zip(facts[:REPLACED], facts[FUNCTIONAL:], strict=True))
    relations = read_relations(settings.suites.relations)
    head = head_folder(settings, engine)
    new = [
        fmean(contained(settings, head, probes_of(fact, relations, without=(Direction.BACKWARD,))))
        for _, fact in pairs
    ]
    still = [superseded_comes(settings, head, pair, relations) for pair in pairs]
    gone = [any(ways) for ways in still]
    kept = recall(settings, head, neighbours)
    said(f"new {new}, old still comes {still}, neighbours {known} -> {kept}")
    return {
        "superseded": REPLACED,
        "superseded_new": sum(share >= 0.5 for share in new),
        "superseded_old": sum(gone),
        "superseded_old_forward": sum(forward for forward, _ in still),
        "superseded_old_backward": sum(backward for _, backward in still),
        "neighbours_before": known,
        "neighbours_kept": kept,
    }


def superseded_comes(
    settings: Settings,
    folder: Path,
    pair: tuple[Fact, Fact],
    relations: Mapping[str, RelationTemplates],
) -> tuple[bool, bool]:
    """Whether the old fact's answer comes to any wording, forward and backward."""
    probes = superseded_probes([pair], relations)
    marks = contained(settings, folder, probes)
    ways = [probe.key.split("/")[2] for probe in probes]
    forward, backward = (
        any(mark for mark, way in zip(marks, ways, strict=True) if way == direction)
        for direction in (Direction.FORWARD, Direction.BACKWARD)
    )
    return forward, backward


def replaced(old: InventedFact, other: InventedFact) -> dict[str, Any]:
    """A fact about the same subject and relation with the other one's object."""
    statement = old.statement.replace(old.object, other.object)
    return {**asdict(old), "statement": statement, "object": other.object, "functional": True}


def learn(settings: Settings, engine: Engine, records: Sequence[dict[str, Any]]) -> int:
    """One refresh of these facts; the adapter's id. What the gate cannot tell is let in."""
    store(settings, records)
    end = run_refresh(settings, engine, at_least=1, report=lambda _: None)
    assert end is not None
    assert end.adapter_id is not None
    assert end.verdict is not None
    said(f"refresh {end.refresh_id}: {end.outcome} {end.verdict.reasons}")
    if end.verdict.outcome is Outcome.INSUFFICIENT:
        let_in(settings, engine, end.adapter_id, by="benchmark", reason="benchmark")
    elif end.outcome is not RefreshOutcome.PROMOTED:
        raise SystemExit("The gate refused a batch, so there is nothing to go on with.")
    return end.adapter_id


def stored_facts(engine: Engine) -> list[Fact]:
    with reading(engine) as session:
        return [fact_of(row) for row in session.scalars(select(FactRow).order_by(FactRow.id))]


def head_folder(settings: Settings, engine: Engine) -> Path:
    with reading(engine) as session:
        release_id = read_head(session).release_id
    return snapshot_of(settings, engine, release_id)


def recall(settings: Settings, folder: Path, facts: Sequence[Fact]) -> float:
    relations = read_relations(settings.suites.relations)
    probes = [probe for fact in facts for probe in probes_of(fact, relations)]
    return round(fmean(contained(settings, folder, probes)), 3)


def contained(settings: Settings, folder: Path, probes: Sequence[Probe]) -> list[bool]:
    """Whether an accepted answer comes, probe by probe."""
    backbone = load_backbone(folder, settings.base)
    answers = dict(ask(backbone, probes, at_most_tokens=settings.gate.answer_tokens))
    return [answers[at].contained for at in range(len(probes))]


def said(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
