"""What one refresh takes, from the claimed batch to the verdict: seconds by phase, peak memory.

And so how many facts an hour this machine learns, were one refresh begun after another.

    python -m benchmarks.refresh --facts 8 --refreshes 2 --json
    python -m benchmarks.refresh --facts 8 --facts 64 --facts 512 --views 1 --json

Each size gets a state directory and a process of its own. It is initialised as an operator does it,
which asks the base what every refresh needs of it (`measuring`). Facts are invented and stored, and
the refresh is the product's own; only the size of a batch is raised to the number of facts.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import described_machine
from benchmarks.trial import arguments, ready_base
from service import facts
from service.auth import Scope, create_key, read_pepper
from service.db import make_engine, reading, writing
from service.initialise import initialise, measure_base
from service.invent import invent_facts
from service.places import Places
from service.refresh import run_refresh
from service.schemas import FactIn
from service.settings import Settings, load_settings
from service.views import show_refresh


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--facts", type=int, action="append", help="several times for several")
    parser.add_argument("--refreshes", type=int, default=1, help="one after another")
    parser.add_argument("--views", type=int, help="of each fact; default: the settings'")
    options = parser.parse_args()
    ready_base(load_settings(options.config), options.base)
    sizes = []
    for count in options.facts or [8]:
        with TemporaryDirectory() as nowhere, multiprocessing.get_context("spawn").Pool(1) as pool:
            task = (options.config, Path(nowhere), options.base, count, options.views)
            sizes.append(pool.apply(refresh_in, (*task, options.refreshes)))
        print(sizes[-1], flush=True)
    if options.json:
        print(json.dumps({**described_machine(), "views": options.views, "refresh": sizes}))


def refresh_in(
    config: Path, state_dir: Path, base: Path, count: int, views: int | None, refreshes: int
) -> dict[str, Any]:
    """Store facts and learn them, in this process; each refresh's phases, and the peak memory."""
    settings = settings_for(config, state_dir, count, views)
    Places(state_dir).base.symlink_to(base.absolute())
    initialise(settings)
    began = time.perf_counter()
    measure_base(settings, report=lambda done, asked: None)
    measuring = round(time.perf_counter() - began, 1)
    engine = make_engine(settings.url)
    invented = invent_facts(1, count=count * refreshes)
    timings = []
    for at in range(refreshes):
        store(settings, [asdict(fact) for fact in invented[at * count : (at + 1) * count]])
        end = run_refresh(settings, engine, at_least=1, report=lambda _: None)
        assert end is not None
        with reading(engine) as session:
            record = show_refresh(session, end.refresh_id)
        cost = record.seconds_per_learned_fact
        timings.append(
            {
                "outcome": end.outcome,
                **record.timings,
                "all": round(sum(record.timings.values()), 1),
                "learned_an_hour": None if cost is None else round(3600 / cost),
            }
        )
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = kib * (1 if sys.platform == "darwin" else 1024)
    return {
        "facts": count,
        "peak_gib": round(peak / 2**30, 2),
        "measuring": measuring,
        "seconds": timings,
    }


def settings_for(config: Path, state_dir: Path, count: int, views: int | None) -> Settings:
    settings = load_settings(config)
    training = settings.training.model_copy(update={"views_per_fact": views} if views else {})
    schedule = settings.schedule.model_copy(update={"at_most": count})
    changes = {"state_dir": state_dir, "training": training, "schedule": schedule}
    return settings.model_copy(update=changes)


def store(settings: Settings, records: Sequence[dict[str, Any]]) -> None:
    """Put fact records into the database, as the API would."""
    now = datetime.now(UTC)
    with writing(make_engine(settings.url)) as session:
        key = create_key(
            session,
            source="benchmark",
            scopes=[Scope.INGEST],
            pepper=read_pepper(settings.state_dir),
            by="benchmark",
            now=now,
        )
        for record in records:
            facts.insert_fact(
                session,
                FactIn.model_validate(record),
                source="benchmark",
                recorded_by=key.split("_")[1],
                now=now,
            )


if __name__ == "__main__":
    main()
