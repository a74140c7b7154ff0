"""The diffusion family through the same refresh, gate and rollback, on a LLaDA that learned.

The base is tests/bases/small-llada, whose README says what it knows. What it is taught here it has
never read, and what it is asked stands in none of the views that it is taught with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from sqlalchemy import Engine

from adapters.errors import ConfigurationError
from adapters.gate import BITS_SUITE
from adapters.questions import probes_of
from adapters.store import file_digest
from adapters.suites import read_relations
from adapters.types import Fact, Suite
from service import facts, lineage, views
from service.asking import ask_release
from service.db import make_engine, reading, writing
from service.facts import FactState
from service.initialise import initialise
from service.invent import invent_facts
from service.models import ApiKey, FactRow, RefreshOutcome
from service.places import Places
from service.refresh import RefreshEnd, run_refresh
from service.removal import plan_removal
from service.rollback import take_out
from service.schemas import FactIn
from service.settings import Settings, load_settings

BASE = Path(__file__).parents[1] / "bases" / "small-llada"
SEED = 2  #: of the facts that are invented
COUNT = 8

World = tuple[Settings, Engine]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a model is slower on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """The base's own settings in a fresh state directory; `make_world(training={...})` changes."""

    def make(**sections: dict[str, Any]) -> World:
        described = yaml.safe_load((BASE / "settings.yaml").read_text())
        described["base"]["folder"] = str(BASE)
        described["state_dir"] = str(tmp_path_factory.mktemp("diffusion") / "state")
        described["suites"] = {
            suite: str(BASE / path) for suite, path in described["suites"].items()
        }
        for section, changes in sections.items():
            described[section] = {**described[section], **changes}
        path = Path(described["state_dir"]).with_name("settings.yaml")
        path.write_text(yaml.safe_dump(described))
        settings = load_settings(path)
        initialise(settings)
        engine = make_engine(settings.url)
        now = datetime.now(UTC)
        with writing(engine) as session:
            session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=now))
        return settings, engine

    return make


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Suites of a few questions, for what does not depend on the answers."""
    folder = tmp_path_factory.mktemp("short")
    suite = yaml.safe_load((BASE / "suite.yaml").read_text())
    suite["questions"], suite["passages"] = suite["questions"][:2], suite["passages"][:2]
    prompts = yaml.safe_load((BASE / "general_prompts.yaml").read_text())
    prompts = {kind: some[:4] for kind, some in prompts.items()}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    (folder / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    return {
        "regression": str(folder / "suite.yaml"),
        "general_prompts": str(folder / "prompts.yaml"),
    }


def invented() -> list[Fact]:
    return [
        Fact(key=str(at), **asdict(fact)) for at, fact in enumerate(invent_facts(SEED, count=COUNT))
    ]


def push(engine: Engine, *, count: int = COUNT) -> list[int]:
    with writing(engine) as session:
        return [
            facts.insert_fact(
                session,
                FactIn.model_validate(asdict(fact)),
                source="team",
                recorded_by="k",
                now=datetime.now(UTC),
            ).id
            for fact in invent_facts(SEED, count=count)
        ]


def refresh(world: World) -> RefreshEnd:
    end = run_refresh(*world, at_least=1, report=lambda _: None)
    assert end is not None
    return end


def record_of(world: World, end: RefreshEnd) -> views.RefreshDetail:
    with reading(world[1]) as session:
        return views.show_refresh(session, end.refresh_id)


def head(world: World) -> lineage.Head:
    with reading(world[1]) as session:
        return lineage.read_head(session)


def questions(settings: Settings) -> list[str]:
    relations = read_relations(settings.suites.relations)
    return [probe.question for fact in invented() for probe in probes_of(fact, relations)]


def answers(world: World) -> list[str]:
    settings, engine = world
    replies = ask_release(settings, engine, questions(settings), release_id=None)
    return [reply.head for reply in replies.answers]


def share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A world whose head has learned the facts, and what it said before."""

    world: World
    ids: list[int]
    end: RefreshEnd
    record: views.RefreshDetail
    before: list[str]


@pytest.fixture(scope="module")
def learned(make_world: Callable[..., World]) -> Learned:
    world = make_world()
    before = answers(world)
    ids = push(world[1])
    end = refresh(world)
    return Learned(world=world, ids=ids, end=end, record=record_of(world, end), before=before)


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "floor"), [(Suite.FORWARD, 0.7), (Suite.BACKWARD, 0.7)])
def test_what_it_was_taught_it_answers_and_did_not_before(
    learned: Learned, suite: Suite, floor: float
) -> None:
    probes = [probe for probe in learned.record.probes if probe.suite == suite]
    assert len(probes) == 2 * COUNT
    assert share([probe.contained_before for probe in probes]) == 0.0
    assert share([probe.contained_after for probe in probes]) >= floor


@pytest.mark.slow
def test_the_gate_passed_it_on_every_suite(learned: Learned) -> None:
    assert learned.end.outcome is RefreshOutcome.PROMOTED
    assert learned.record.verdict is not None
    suites = learned.record.verdict["suites"]
    assert {suite["suite"]: suite["outcome"] for suite in suites} == dict.fromkeys(
        (
            Suite.FORWARD, Suite.BACKWARD, Suite.LEAKAGE, Suite.REGRESSION, Suite.TRIGGERS,
            Suite.PLANTED, BITS_SUITE,
        ),
        "pass",
    )  # fmt: skip
    (general,) = (suite for suite in suites if suite["suite"] == Suite.REGRESSION)
    assert general["before"] >= 0.9  # it has general knowledge to lose
    assert len(learned.record.passages) == 8
    assert head(learned.world).recipe.adapter_ids == (learned.end.adapter_id,)


@pytest.mark.slow
def test_the_facts_are_live(learned: Learned) -> None:
    with reading(learned.world[1]) as session:
        rows = [session.get_one(FactRow, fact) for fact in learned.ids]
        states = facts.states_of(session, rows, now=datetime.now(UTC))
    assert share([states[fact] is FactState.LIVE for fact in learned.ids]) >= 0.5


@pytest.mark.slow
def test_the_release_is_a_llada_under_its_own_names(learned: Learned) -> None:
    settings = learned.world[0]
    folder = Places(settings.state_dir).snapshot(head(learned.world).recipe.digest)
    assert (folder / "config.json").read_bytes() == (BASE / "config.json").read_bytes()
    with (
        safe_open(BASE / "model.safetensors", "pt") as base,
        safe_open(folder / "model.safetensors", "pt") as released,
    ):
        assert set(released.keys()) == set(base.keys())
        assert all(name.startswith("model.transformer.") for name in released.keys())
        changed = {
            name.split(".")[4]
            for name in base.keys()
            if not torch.equal(base.get_tensor(name).float(), released.get_tensor(name))
        }
    assert changed == {"ff_proj", "up_proj", "ff_out"}


@pytest.mark.slow
def test_a_rollback_gives_back_the_answers_of_before_token_for_token(learned: Learned) -> None:
    settings, engine = world = learned.world
    after = answers(world)
    assert after != learned.before
    took = take_out(
        settings,
        engine,
        plan_removal(engine, learned.end.adapter_id),
        by="test",
        reason="it was wrong",
    )
    assert took.taken_out == (learned.end.adapter_id,)
    assert answers(world) == learned.before


def test_the_same_seed_gives_the_same_adapter(
    make_world: Callable[..., World], short: dict[str, str]
) -> None:
    """In another state directory, from the same facts."""

    def adapter(seed: int) -> str:
        training = {"views_per_fact": 24, "seed": seed}
        _, engine = world = make_world(suites=short, training=training)
        push(engine, count=2)
        adapter_id = refresh(world).adapter_id
        assert adapter_id is not None
        with reading(engine) as session:
            return file_digest(
                Places(world[0].state_dir).adapter(views.show_adapter(session, adapter_id).digest)
                / "adapter_model.safetensors"
            )

    first = adapter(0)
    assert adapter(0) == first
    assert adapter(1) != first


@pytest.mark.usefixtures("damaged_training")
def test_a_damaged_adapter_is_rejected_and_the_head_stays(make_world: Callable[..., World]) -> None:
    world = make_world(training={"general_share": [0.0, 0.0], "shift_weight": 0.0})
    push(world[1])
    before = head(world)
    end = refresh(world)
    assert end.outcome is RefreshOutcome.REJECTED
    assert end.verdict is not None
    failed = {suite.suite for suite in end.verdict.suites if suite.outcome == "fail"}
    assert {Suite.FORWARD, Suite.BACKWARD, Suite.REGRESSION, "bits per byte"} <= failed
    assert head(world) == before


@pytest.mark.parametrize("objective", ["plain", "plain_raw"])
def test_an_objective_of_the_other_family_is_refused_and_the_facts_wait(
    make_world: Callable[..., World], short: dict[str, str], objective: str
) -> None:
    _, engine = world = make_world(suites=short, training={"objective": objective})
    ids = push(engine, count=2)
    with pytest.raises(ConfigurationError, match=f"is {objective}, which a diffusion base cannot"):
        refresh(world)
    with reading(engine) as session:
        newest = views.list_refreshes(session).items[0]
        rows = [session.get_one(FactRow, fact) for fact in ids]
        states = facts.states_of(session, rows, now=datetime.now(UTC))
    assert newest.outcome == RefreshOutcome.HINDERED
    assert set(states.values()) == {FactState.PENDING}
