"""Tasks of lm-eval as suites: its own marks, one a question, kept and compared in pairs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

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


@pytest.fixture
def make_suites(tmp_path: Path) -> MakeSuites:
    """Settings with a multiple-choice task in a folder of its own."""
    rows = [{"land": land, "at": at} for at, land in enumerate(LANDS)] * 4
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "task": "capitals",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "What is the capital of {{land}}?",
        "doc_to_target": "{{at}}",
        "doc_to_choice": CITIES,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "capitals.yaml").write_text(yaml.safe_dump(described))

    def make(**changes: object) -> SuitesConfig:
        task = TaskConfig.model_validate({"name": "capitals", **changes})
        return SuitesConfig(tasks=(task,), task_folder=tmp_path / "tasks")

    return make


def test_each_question_of_a_task_is_marked_and_kept(
    tiny: Backbone, make_suites: MakeSuites, tmp_path: Path
) -> None:
    suites, cache = make_suites(), tmp_path / "answers"
    first = answer_tasks(tiny, suites, weights_digest="w" * 64, cache=cache)
    assert len(first) == 12
    assert {answer.probe.suite for answer in first} == {Suite.TASK}
    assert len({answer.probe.key for answer in first}) == 12
    right = [answer.contained for answer in first]
    assert right[:3] == right[3:6] == right[9:]  # the same question has the same mark
    assert 0 < sum(right) < 12
    tiny.model.lm_head.weight.data.zero_()
    assert answer_tasks(tiny, suites, weights_digest="w" * 64, cache=cache) == first
    assert answer_tasks(tiny, suites, weights_digest="v" * 64, cache=cache) != first


def test_no_more_are_asked_than_the_settings_say(
    tiny: Backbone, make_suites: MakeSuites, tmp_path: Path
) -> None:
    answers = answer_tasks(tiny, make_suites(questions=5), weights_digest="w" * 64, cache=tmp_path)
    assert len(answers) == 5


def test_a_task_that_is_lost_keeps_the_candidate_out(
    tiny: Backbone, make_suites: MakeSuites, tmp_path: Path
) -> None:
    answers = answer_tasks(tiny, make_suites(), weights_digest="w" * 64, cache=tmp_path)
    known = [replace(answer, contained=True) for answer in answers]
    lost = [replace(answer, contained=False) for answer in answers]
    verdict = decide(known, lost, [], [], GateConfig(), tasks={"capitals": 0.05})
    (line,) = (suite for suite in verdict.suites if suite.suite == "task capitals")
    assert line.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"name": "no_such_task"}, SuiteError, "Task no_such_task of suites.tasks"),
        ({"metric": "f1"}, ConfigurationError, "It has: acc"),
    ],
)
def test_a_task_that_cannot_be_asked_is_named(
    tiny: Backbone,
    make_suites: MakeSuites,
    tmp_path: Path,
    changes: dict[str, str],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        answer_tasks(tiny, make_suites(**changes), weights_digest="w" * 64, cache=tmp_path)


def test_tasks_are_for_the_llama_family(
    tiny_llada: Backbone, make_suites: MakeSuites, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="Llama family"):
        answer_tasks(tiny_llada, make_suites(), weights_digest="w" * 64, cache=tmp_path)
