"""Tasks of lm-eval, EleutherAI's evaluation harness, as suites of the gate. An extra.

Its own code asks, scores and prompts, so that a task's figure is the one that is published
elsewhere; what comes back is one mark a question, which the gate compares in pairs like any other.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adapters.backbones import Backbone
from adapters.config import SuitesConfig, TaskConfig
from adapters.errors import ConfigurationError, SuiteError
from adapters.types import Answer, Family, Probe, ProbeOrigin, Suite

if TYPE_CHECKING:  # an extra
    from lm_eval.tasks import TaskManager

LONGEST = 500  #: characters of a question or a reply that are kept
ROWS = 16  #: requests that are read at a time


def answer_tasks(backbone: Backbone, suites: SuitesConfig) -> tuple[Answer, ...]:
    """One answer for each question of each task, in an order that depends on the tasks alone.

    No answer is kept: a task's files may change, and before and after must be asked the same. A
    question's mark is the task's metric, which must be 0 or 1 for each. Raises ConfigurationError
    where lm-eval is not installed, the family is not Llama or a metric is not of that kind,
    SuiteError where a task is unknown or cannot be read.
    """
    if not suites.tasks:
        return ()
    if backbone.family is not Family.AUTOREGRESSIVE:
        raise ConfigurationError("suites.tasks is for the Llama family: lm-eval asks no other.")
    if find_spec("lm_eval") is None:
        raise ConfigurationError(
            "suites.tasks names tasks of lm-eval, which is not installed: "
            "pip install 'lorewright[eval]'."
        )
    return tuple(_ask(backbone, suites))


def _ask(backbone: Backbone, suites: SuitesConfig) -> Iterator[Answer]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = None if suites.task_folder is None else str(suites.task_folder)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        model = HFLM(
            pretrained=backbone.model,
            tokenizer=backbone.tokenizer,
            batch_size=ROWS,
            backend="causal",
        )
        tasks = _known_tasks(folder)
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


@cache
def _known_tasks(folder: str | None) -> "TaskManager":
    """lm-eval's own tasks and those of a folder: thousands of files, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _answers_of(
    task: TaskConfig, part: str, samples: Sequence[Mapping[str, Any]]
) -> Iterator[Answer]:
    """The marks of one part of a task; where it filters replies in several ways, by one of them."""
    metric, _, wanted = task.metric.partition(",")
    chosen = wanted or samples[0]["filter"]
    filtered = [sample for sample in samples if sample["filter"] == chosen]
    if not filtered:
        known = ", ".join(sorted({sample["filter"] for sample in samples}))
        raise ConfigurationError(f"Task {task.name} has no filter {wanted}. It has: {known}.")
    for sample in sorted(filtered, key=lambda sample: int(sample["doc_id"])):
        mark = sample.get(metric)
        if mark not in (0, 1):
            measures = ", ".join(sample["metrics"])
            raise ConfigurationError(
                f"Task {task.name} has {mark!r} for {metric}, and only a metric that is 0 or 1 for "
                f"each question can be compared in pairs. It has: {measures}."
            )
        name = f"{task.name}/{part}/{sample['doc_id']}"
        yield Answer(
            probe=Probe(
                key=f"{Suite.TASK}/{name}",
                suite=Suite.TASK,
                cluster=name,
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
