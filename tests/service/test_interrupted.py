"""A refresh that is killed or stopped in the middle, and gone on with, as an operator sees it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine, select

from service import facts
from service.db import make_engine, reading, writing
from service.initialise import initialise
from service.models import Adapter, ApiKey, Refresh, RefreshOutcome, TrainingLoss
from service.places import Places
from service.schemas import FactIn
from service.settings import Settings, load_settings

CONFIGS = Path(__file__).parents[2] / "configs"
WITHIN_S = 120.0
LEASE_S = 2.0
STEPS = 200
LEASE_HELD, NOT_PROMOTED = 4, 3  #: exit codes


class Site:
    """One state directory with a tiny base and two waiting facts."""

    def __init__(self, folder: Path, tiny_folder: Path) -> None:
        folder.mkdir()
        self.config = folder / "settings.yaml"
        (folder / "suite.yaml").write_text(short_suite())
        (folder / "prompts.yaml").write_text(yaml.safe_dump({"prompts": ["Hi!"], "texts": []}))
        described = {
            "state_dir": str(folder / "state"),
            "base": {"name": "tiny", "folder": str(tiny_folder)},
            "training": {"views_per_fact": STEPS, "rows_per_step": 2, "general_share": [0.0, 0.0]},
            "schedule": {"at_least": 2, "lease_s": LEASE_S},
            "suites": {
                "regression": str(folder / "suite.yaml"),
                "relations": str(CONFIGS / "relations.yaml"),
                "general_prompts": str(folder / "prompts.yaml"),
            },
        }
        self.config.write_text(yaml.safe_dump(described))
        self.settings: Settings = load_settings(self.config)
        initialise(self.settings)
        self.engine: Engine = make_engine(self.settings.url)
        self.push("Orlan Vess is the mayor of Tolmar.", "Mira Zun is the mayor of Bregal.")

    def push(self, *statements: str) -> None:
        now = datetime.now(UTC)
        with writing(self.engine) as session:
            if session.get(ApiKey, "k") is None:
                key = ApiKey(id="k", digest="", source="team", scopes=[], created_at=now)
                session.add(key)
                session.flush()
            for statement in statements:
                fact = FactIn(statement=statement)
                facts.insert_fact(session, fact, source="team", recorded_by="k", now=now)

    def begin(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "service.cli", "--config", str(self.config)),
                *("refresh", "--at-least", "2", "--json"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # a tiny model is slower on more
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def end(self) -> None:
        """Refresh until it comes to a verdict; the dead one's lease may not have expired yet."""
        until = time.monotonic() + WITHIN_S
        while self.last().outcome not in (RefreshOutcome.REJECTED, RefreshOutcome.INSUFFICIENT):
            assert time.monotonic() < until
            assert self.begin().wait(timeout=WITHIN_S) in (LEASE_HELD, NOT_PROMOTED)
            time.sleep(0.2)

    def interrupt_at(self, step: int, number: signal.Signals) -> int:
        """Begin a refresh and send it a signal after a step of its training; its exit code."""
        process = self.begin()
        until = time.monotonic() + WITHIN_S
        while not self.is_training_past(step):
            if process.poll() is not None:  # the lease of the one before was still held
                assert process.returncode == LEASE_HELD
                process = self.begin()
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(timeout=WITHIN_S)

    def is_training_past(self, step: int) -> bool:
        with reading(self.engine) as session:
            last = session.scalar(select(Refresh).order_by(Refresh.id.desc()).limit(1))
            return last is not None and last.phase == "training" and last.step >= step

    def last(self) -> Refresh:
        with reading(self.engine) as session:
            last = session.scalar(select(Refresh).order_by(Refresh.id.desc()).limit(1))
            return last or Refresh(id=0, outcome=None)

    def first_step_of(self, refresh_id: int) -> int | None:
        with reading(self.engine) as session:
            steps = select(TrainingLoss.step).where(TrainingLoss.refresh_id == refresh_id)
            return session.scalar(steps.order_by(TrainingLoss.step).limit(1))

    def adapter_digests(self) -> list[str]:
        with reading(self.engine) as session:
            return list(session.scalars(select(Adapter.digest)))


def short_suite() -> str:
    suite = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text())
    del suite["tables"]
    suite["questions"], suite["passages"] = suite["questions"][:4], suite["passages"][:2]
    return str(yaml.safe_dump(suite))


@pytest.fixture
def sites(tmp_path: Path, tiny_folder: Path) -> Iterator[tuple[Site, Site]]:
    both = Site(tmp_path / "a", tiny_folder), Site(tmp_path / "b", tiny_folder)
    yield both
    for site in both:
        site.engine.dispose()


def test_killed_and_stopped_trainings_give_the_bytes_of_an_undisturbed_one(
    sites: tuple[Site, Site],
) -> None:
    undisturbed, disturbed = sites
    undisturbed.end()

    assert disturbed.interrupt_at(30, signal.SIGTERM) == 130
    stopped = disturbed.last()
    assert stopped.outcome == RefreshOutcome.STOPPED
    assert "stopped after step" in str(stopped.reason)

    disturbed.push("A fact that came meanwhile waits for the next batch.")
    assert disturbed.interrupt_at(80, signal.SIGKILL) == -signal.SIGKILL
    killed = disturbed.last().id
    first = disturbed.first_step_of(killed)
    assert first is not None
    assert first > 30, "the step of the signal was the last one, and nothing was done twice"
    assert disturbed.interrupt_at(130, signal.SIGKILL) == -signal.SIGKILL
    disturbed.end()
    assert (disturbed.first_step_of(disturbed.last().id) or 0) > 100
    assert disturbed.adapter_digests() == undisturbed.adapter_digests()
    assert len(disturbed.adapter_digests()) == 1
    assert not Places(disturbed.settings.state_dir).checkpoint.exists()
