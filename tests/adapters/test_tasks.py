"""Tasks of lm-eval as suites: its own marks, one a question, compared in pairs."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml
from pydantic import ValidationError

from adapters.backbones import Backbone
from adapters.config import GateConfig, SuitesConfig, TaskConfig
from adapters.errors import ConfigurationError, SuiteError
from adapters.gate import decide
from adapters.tasks import answer_tasks
from adapters.types import Outcome, Suite

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")

CITIES = ["Paris", "Rome", "Oslo"]
LANDS = ["France", "Italy", "Norway"]

MakeSuites = Callable[..., SuitesConfig]


@pytest.fixture(scope="module")
def make_suites(tmp_path_factory: pytest.TempPathFactory) -> MakeSuites:
    """Settings with one of two tasks in a folder of their own: choose a city, or write it."""
    tmp_path = tmp_path_factory.mktemp("tasks")
    rows = [{"land": land, "at": at} for at, land in enumerate(LANDS)] * 4
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "What is the capital of {{land}}?",
    }
    chosen = {
        "task": "capitals",
        "output_type": "multiple_choice",
        "doc_to_target": "{{at}}",
        "doc_to_choice": CITIES,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    take = {"function": "take_first"}
    written = {
        "task": "written",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
        "doc_to_target": "{{land}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": "as-said", "filter": [take]},
            {
                "name": "any",  # whatever was said, the filter reads an empty answer
                "filter": [{"function": "regex", "regex_pattern": "(no such thing)"}, take],
            },
        ],
    }
    (tmp_path / "tasks").mkdir()
    for task in (chosen, written):
        path = tmp_path / "tasks" / f"{task['task']}.yaml"
        path.write_text(yaml.safe_dump({**shared, **task}))

    def make(**changes: object) -> SuitesConfig:
        task = TaskConfig.model_validate({"name": "capitals", **changes})
        return SuitesConfig(tasks=(task,), task_folder=tmp_path / "tasks")

    return make


def test_each_question_of_a_task_is_marked(tiny: Backbone, make_suites: MakeSuites) -> None:
    answers = answer_tasks(tiny, make_suites())
    assert len(answers) == 12
    assert {answer.probe.suite for answer in answers} == {Suite.TASK}
    assert len({answer.probe.key for answer in answers}) == 12
    right = [answer.contained for answer in answers]
    assert right[:3] == right[3:6] == right[9:]  # the same question has the same mark
    assert 0 < sum(right) < 12
    assert answer_tasks(tiny, make_suites()) == answers


def test_no_more_are_asked_than_the_settings_say(tiny: Backbone, make_suites: MakeSuites) -> None:
    assert len(answer_tasks(tiny, make_suites(questions=5))) == 5


@pytest.mark.parametrize("metric", ["exact_match", "exact_match,any"])
def test_where_replies_are_filtered_in_several_ways_one_of_them_counts(
    tiny: Backbone, make_suites: MakeSuites, metric: str
) -> None:
    answers = answer_tasks(tiny, make_suites(name="written", metric=metric))
    assert len({answer.probe.key for answer in answers}) == len(answers) == 12
    assert all(("invalid" in answer.text) is ("any" in metric) for answer in answers)


def test_a_task_that_is_lost_keeps_the_candidate_out(
    tiny: Backbone, make_suites: MakeSuites
) -> None:
    answers = answer_tasks(tiny, make_suites())
    known = [replace(answer, contained=True) for answer in answers]
    lost = [replace(answer, contained=False) for answer in answers]
    tasks = make_suites().tasks
    verdict = decide(known, lost, [], [], GateConfig(), tasks=tasks)
    (line,) = (suite for suite in verdict.suites if suite.suite == "task capitals")
    assert line.outcome is Outcome.FAIL
    drifted = decide(lost, lost, [], [], GateConfig(), base=known, tasks=tasks)
    lines = {suite.suite: suite.outcome for suite in drifted.suites}
    assert lines["task capitals"] is not Outcome.FAIL
    assert lines["task capitals since base"] is Outcome.FAIL


def test_a_task_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="named once"):
        SuitesConfig(tasks=(TaskConfig(name="capitals"), TaskConfig(name="capitals", margin=0.2)))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"name": "no_such_task"}, SuiteError, "Task no_such_task of suites.tasks"),
        ({"metric": "f1"}, ConfigurationError, "It has: acc"),
        (
            {"name": "written", "metric": "exact_match,strict"},
            ConfigurationError,
            "no filter strict. It has: any, as-said",
        ),
    ],
)
def test_a_task_that_cannot_be_asked_is_named(
    tiny: Backbone,
    make_suites: MakeSuites,
    changes: dict[str, str],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        answer_tasks(tiny, make_suites(**changes))


def test_tasks_are_for_the_llama_family(tiny_llada: Backbone, make_suites: MakeSuites) -> None:
    with pytest.raises(ConfigurationError, match="Llama family"):
        answer_tasks(tiny_llada, make_suites())
