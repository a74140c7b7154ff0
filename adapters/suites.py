"""Read the YAML files that hold questions: the regression suite and the relation templates."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import SuiteError
from adapters.grading import contains
from adapters.questions import RelationTemplates
from adapters.types import Probe, ProbeOrigin, Suite

Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Question(_Strict):
    id: str
    subject: str
    question: str = Field(min_length=1)
    answers: list[str] = Field(min_length=1)


class _Passage(_Strict):
    id: str
    text: str = Field(min_length=1)


class _SuiteFile(_Strict):
    name: str
    questions: list[_Question] = Field(min_length=1)
    passages: list[_Passage] = Field(min_length=1)


class _Relation(_Strict):
    forward: list[str] = Field(min_length=1)
    backward: list[str] = Field(min_length=1)


class _RelationFile(_Strict):
    relations: dict[str, _Relation]


class _PromptFile(_Strict):
    prompts: list[str] = Field(min_length=1)
    texts: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralPrompts:
    """What holds a model in place while it learns; nothing is measured with it."""

    prompts: tuple[str, ...]  #: put to the model as a user's words
    texts: tuple[str, ...]  #: predicted as they stand


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionSuite:
    """General questions, and passages for bits per byte, that every candidate is held against."""

    name: str
    probes: tuple[Probe, ...]
    passages: tuple[tuple[str, str], ...]  #: (name, text)


def read_suite(path: Path) -> RegressionSuite:
    """Raises SuiteError that names the file and the line or entry that cannot be used."""
    suite = _read(path, _SuiteFile)
    for entry in suite.questions:
        if contains(entry.question, entry.answers):
            raise SuiteError(f"{path}: question {entry.id} contains its own answer.")
    for kind, names in (
        ("question", [entry.id for entry in suite.questions]),
        ("passage", [entry.id for entry in suite.passages]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise SuiteError(f"{path}: {kind} {min(twice)} is there twice.")
    return RegressionSuite(
        name=suite.name,
        probes=tuple(
            Probe(
                key=f"{suite.name}/{entry.id}",
                suite=Suite.REGRESSION,
                cluster=entry.id,
                question=entry.question,
                answers=tuple(entry.answers),
                origin=ProbeOrigin.SUITE,
            )
            for entry in suite.questions
        ),
        passages=tuple((entry.id, entry.text) for entry in suite.passages),
    )


def read_prompts(path: Path) -> GeneralPrompts:
    """Raises SuiteError that names the file and the entry that cannot be used."""
    file = _read(path, _PromptFile)
    return GeneralPrompts(prompts=tuple(file.prompts), texts=tuple(file.texts))


def read_relations(path: Path) -> dict[str, RelationTemplates]:
    """Raises SuiteError for a broken file, or a template with another field than its entities."""
    relations = {}
    for name, relation in _read(path, _RelationFile).relations.items():
        _check(path, name, relation.forward, asks="object", shows="subject")
        _check(path, name, relation.backward, asks="subject", shows="object")
        relations[name] = RelationTemplates(
            forward=tuple(relation.forward), backward=tuple(relation.backward)
        )
    return relations


def _check(path: Path, name: str, templates: list[str], *, asks: str, shows: str) -> None:
    for template in templates:
        fields = template.replace(f"{{{shows}}}", "")
        if fields == template or "{" in fields or "}" in fields:
            raise SuiteError(
                f"{path}: relation {name} asks {template!r}; a question for the {asks} must hold "
                f"{{{shows}}} and no other braces."
            )


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SuiteError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top"
        raise SuiteError(f"{path}: {where}: {first['msg']}.") from error
