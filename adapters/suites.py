"""Read the YAML files that hold questions: the regression suite and the relation templates."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import SuiteError
from adapters.grading import contains, normalised
from adapters.questions import RelationTemplates
from adapters.types import Probe, ProbeOrigin, Suite

Model = TypeVar("Model", bound=BaseModel)
#: The parser in C, which PyYAML has nearly everywhere, reads the shipped files ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Said = Annotated[str, Field(pattern=r"\w")]  #: holds a word


class _Question(_Strict):
    id: str
    subject: str
    relation: str | None = None
    cluster: str | None = None  #: questions that may be lost together share it
    question: Said
    answers: list[str] = Field(min_length=1)


class _Ask(_Strict):
    """One question for every row: the answer is a column of the row, or the same for all."""

    question: Said
    answer: str | None = None
    answers: list[str] = []


class _Table(_Strict):
    """Rows of what is known, and how to ask for it."""

    id: str
    subject: str
    relation: str | None = None
    columns: list[str] = Field(min_length=1)
    ask: list[_Ask] = Field(min_length=1)
    rows: list[list[str | list[str]]] = Field(min_length=1)


class _Passage(_Strict):
    id: str
    text: str = Field(min_length=1)


class _SuiteFile(_Strict):
    name: str
    questions: list[_Question] = []
    tables: list[_Table] = []
    passages: list[_Passage] = Field(min_length=2)  # a t bound needs two


class _Relation(_Strict):
    forward: list[str] = Field(min_length=1)
    backward: list[str] = Field(min_length=1)
    symmetric: bool = False


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
    questions = [*suite.questions, *_of_tables(path, suite.tables)]
    if not questions:
        raise SuiteError(f"{path}: there is no question, neither in questions nor in tables.")
    for entry in questions:
        if not all(map(normalised, entry.answers)):
            raise SuiteError(f"{path}: question {entry.id} has an answer without any word in it.")
        if contains(entry.question, entry.answers):
            raise SuiteError(f"{path}: question {entry.id} contains its own answer.")
    for kind, names in (
        ("question id", [entry.id for entry in questions]),
        ("question", [entry.question for entry in questions]),
        ("passage", [entry.id for entry in suite.passages]),
    ):
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise SuiteError(f"{path}: {kind} {min(twice)} is there twice.")
    return RegressionSuite(
        name=suite.name,
        probes=tuple(
            Probe(
                key=f"{suite.name}/{entry.id}",
                suite=Suite.REGRESSION,
                cluster=entry.cluster or entry.id,
                question=entry.question,
                answers=tuple(entry.answers),
                origin=ProbeOrigin.SUITE,
                relation=entry.relation,
            )
            for entry in questions
        ),
        passages=tuple((entry.id, entry.text) for entry in suite.passages),
    )


def _of_tables(path: Path, tables: Iterable[_Table]) -> Iterator[_Question]:
    """Every row of every table, asked in each of its table's ways.

    Raises SuiteError for a row of another length, and for a question about what is no column.
    """
    for table in tables:
        for number, row in enumerate(table.rows, start=1):
            where = f"{path}: table {table.id}, row {number}"
            if len(row) != len(table.columns):
                raise SuiteError(
                    f"{where} has {len(row)} cells, but there are {len(table.columns)} columns."
                )
            cells = {
                name: [cell] if isinstance(cell, str) else cell
                for name, cell in zip(table.columns, row, strict=True)
            }
            if not all(cell and all(map(normalised, cell)) for cell in cells.values()):
                raise SuiteError(f"{where} has an empty cell.")
            for way, ask in enumerate(table.ask):
                if (ask.answer is None) == (not ask.answers):
                    raise SuiteError(
                        f"{path}: table {table.id}: {ask.question!r} needs one of "
                        "answer (a column) and answers (the same for all rows)."
                    )
                if ask.answer is not None and ask.answer not in cells:
                    raise SuiteError(f"{path}: table {table.id} has no column {ask.answer}.")
                question = ask.question
                for name, cell in cells.items():
                    question = question.replace(f"{{{name}}}", cell[0])
                if (question == ask.question and len(table.rows) > 1) or "{" in question:
                    raise SuiteError(
                        f"{path}: table {table.id}: {ask.question!r} must name columns in braces, "
                        f"and no others than {', '.join(table.columns)}."
                    )
                yield _Question(
                    id=f"{table.id}-{number:02}" + ("abcdefgh"[way] if len(table.ask) > 1 else ""),
                    subject=table.subject,
                    relation=table.relation,
                    cluster=f"{table.id}-{number:02}",
                    question=question,
                    answers=ask.answers if ask.answer is None else cells[ask.answer],
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
            forward=tuple(relation.forward),
            backward=tuple(relation.backward),
            is_symmetric=relation.symmetric,
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
        text = path.read_text(encoding="utf-8")
        loader = LOADER(text)
        node = loader.get_single_node()
        _refuse_repeated_keys(path, node)
        return model.model_validate(None if node is None else loader.construct_document(node))
    except OSError as error:
        raise SuiteError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top"
        line = _line_of(text, first["loc"])
        raise SuiteError(f"{path}, line {line}: {where}: {first['msg']}.") from error


def _refuse_repeated_keys(path: Path, node: yaml.Node | None) -> None:
    """Raises SuiteError: YAML would take the last one, and what stands above would be lost."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise SuiteError(
                    f"{path}, line {line}: {key.value} is there already, in line {seen[key.value]}."
                )
            seen[key.value] = line
            _refuse_repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)


def _line_of(text: str, place: Sequence[int | str]) -> int:
    """The line, from 1, of what stands at a place in a YAML text, or of the last part that does."""
    node = yaml.compose(text, Loader=LOADER)
    for key in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for name, value in node.value if name.value == key), node)
    return 1 if node is None else int(node.start_mark.line) + 1
