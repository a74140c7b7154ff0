"""Tasks of lm-eval, EleutherAI's evaluation harness, as suites of the gate. An extra.

Its own code asks, scores and prompts, so that a task's figure is the one that is published
elsewhere; what comes back is one mark a question, which the gate compares in pairs like any other.
"""

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adapters.backbones import Backbone
from adapters.config import SuitesConfig, TaskConfig
from adapters.errors import ConfigurationError, SuiteError
from adapters.store import canonical_digest, sync
from adapters.types import Answer, Family, Probe, ProbeOrigin, Suite

LONGEST = 500  #: characters of a question or a reply that are kept
ROWS = 16  #: requests that are read at a time


def answer_tasks(
    backbone: Backbone, suites: SuitesConfig, *, weights_digest: str, cache: Path
) -> tuple[Answer, ...]:
    """One answer for each question of each task, in an order that depends on the tasks alone.

    Kept in the cache by the weights and the tasks. A question's mark is the task's metric, which
    must be 0 or 1 for each. Raises ConfigurationError where lm-eval is not installed, the family is
    not Llama or a metric is not of that kind, SuiteError where a task is unknown or cannot be read.
    """
    if not suites.tasks:
        return ()
    if backbone.family is not Family.AUTOREGRESSIVE:
        raise ConfigurationError("suites.tasks is for the Llama family: lm-eval asks no other.")
    try:
        asked = [task.model_dump(mode="json") for task in suites.tasks]
        digest = canonical_digest([asked, str(suites.task_folder), version("lm_eval")])
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "suites.tasks names tasks of lm-eval, which is not installed: "
            "pip install 'lorewright[eval]'."
        ) from error
    known = cache / f"{weights_digest[:16]}-tasks-{digest[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return tuple(map(_from_record, json.loads(known.read_text(encoding="utf-8"))))
    answers = tuple(_ask(backbone, suites))
    known.parent.mkdir(parents=True, exist_ok=True)
    partial = known.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(answer) for answer in answers]), encoding="utf-8")
    sync(partial)
    partial.replace(known)
    return answers


def _from_record(record: Mapping[str, Any]) -> Answer:
    probe = record["probe"]
    return Answer(
        **{
            **record,
            "probe": Probe(
                **{
                    **probe,
                    "suite": Suite(probe["suite"]),
                    "origin": ProbeOrigin(probe["origin"]),
                    "answers": tuple(probe["answers"]),
                }
            ),
        }
    )


def _ask(backbone: Backbone, suites: SuitesConfig) -> Iterator[Answer]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = None if suites.task_folder is None else str(suites.task_folder)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        model = HFLM(
            pretrained=backbone.model,
            tokenizer=backbone.tokenizer,
            batch_size=ROWS,
            backend="causal",
        )
        tasks = TaskManager(include_path=folder)
        for task in suites.tasks:
            try:
                found = lm_eval.simple_evaluate(
                    model,
                    tasks=[task.name],
                    task_manager=tasks,
                    limit=task.questions,
                    log_samples=True,
                    bootstrap_iters=0,
                )
            except Exception as error:  # whatever a task's own files and code raise
                raise SuiteError(
                    f"Task {task.name} of suites.tasks cannot be asked: {type(error).__name__}: "
                    f"{error}"
                ) from error
            for part, samples in sorted(found["samples"].items()):
                yield from _answers_of(task, part, samples)


def _answers_of(
    task: TaskConfig, part: str, samples: Sequence[Mapping[str, Any]]
) -> Iterator[Answer]:
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        mark = sample.get(task.metric)
        if mark not in (0, 1):
            measures = ", ".join(sample["metrics"])
            raise ConfigurationError(
                f"Task {task.name} has {mark!r} for {task.metric}, and only a metric that is 0 or "
                f"1 for each question can be compared in pairs. It has: {measures}."
            )
        yield Answer(
            probe=Probe(
                key=f"{Suite.TASK}/{part}/{sample['doc_id']}",
                suite=Suite.TASK,
                cluster=f"{part}/{sample['doc_id']}",
                question=str(sample["arguments"][0][0])[-LONGEST:],
                answers=(str(sample["target"])[:LONGEST],),
                origin=ProbeOrigin.SUITE,
                relation=task.name,
            ),
            text=str(sample["filtered_resps"])[:LONGEST],
            exact=bool(mark),
            contained=bool(mark),
            recall=float(mark),
        )
