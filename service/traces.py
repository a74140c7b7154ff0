"""What a fact said, wherever it stands: in the database's text, in files, in logs.

A name that other facts have, too, or the questions that every model is asked, is theirs as well: it
stays, and is counted.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.config import SuitesConfig
from adapters.names import find_names
from service.models import FactRow

ERASED = "[erased]"
SPOKEN = ("statement", "subject", "object", "external_id", "qualifiers", "provenance", "probes")
#: Numbers, and the base's own vocabulary, which every composed model has a copy of.
NEVER_TEXT = ("*.safetensors", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """The texts of some facts by which their traces are known."""

    own: tuple[str, ...]  #: longest first
    words: tuple[str, ...]  #: likewise, but other texts have these as parts of longer words
    shared: int  #: how many more there are that others say, too

    def __bool__(self) -> bool:
        return bool(self.own or self.words)


def traces_of(session: Session, rows: Sequence[FactRow], suites: SuitesConfig) -> Traces:
    """What only these facts say: statements, what their senders gave with them, names in both.

    Text that says nothing by itself, such as a date or a common word, is left out.
    """
    said = {text for row in rows for text in _texts(row) if _tells(text)}
    any_of_them = _finder(said)
    shared: set[str] = set()
    within: set[str] = set()
    for other in _other_texts(session, [row.id for row in rows], suites):
        if not any_of_them.search(other):
            continue
        within |= {text for text in said if _finder([text]).search(other)}
        shared |= {text for text in within if _finder([text], whole_words=True).search(other)}
    return Traces(
        own=tuple(sorted(said - within, key=len, reverse=True)),
        words=tuple(sorted(within - shared, key=len, reverse=True)),
        shared=len(shared),
    )


def _texts(row: FactRow) -> Iterator[str]:
    for name in SPOKEN:
        for text in _strings(getattr(row, name)):
            yield text
            yield from find_names(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in _strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _strings(part))


def _tells(text: str) -> bool:
    """A name, a sentence or a long number; not a date, nor a word of everyday."""
    letters = sum(character.isalpha() for character in text)
    digits = sum(character.isdigit() for character in text)
    if letters < 3 or letters + digits < 4:
        return digits >= 9
    return not (text.isascii() and text.isalpha() and text.islower())


def _other_texts(session: Session, fact_ids: Sequence[int], suites: SuitesConfig) -> Iterator[str]:
    for path in (suites.regression, suites.general_prompts, suites.relations):
        yield path.read_text(encoding="utf-8")
    columns = [getattr(FactRow, name) for name in SPOKEN]
    others = select(*columns).where(FactRow.id.not_in(fact_ids), FactRow.erased_at.is_(None))
    for row in session.execute(others.execution_options(yield_per=1000)):
        yield "\n".join(text for value in row for text in _strings(value))


def _finder(texts: Iterable[str], *, whole_words: bool = False) -> re.Pattern[str]:
    ordered = sorted(texts, key=len, reverse=True)
    either = "|".join(map(re.escape, ordered)) or r"(?!)"
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)" if whole_words else either, re.IGNORECASE)


def overwriter(traces: Traces) -> Callable[[Any], Any]:
    """A function that puts a mark in place of every trace in a text, or in the texts of JSON."""
    parts = _finder(traces.own, whole_words=False)
    words = _finder(traces.words, whole_words=True)

    def overwritten(value: Any) -> Any:
        if isinstance(value, str):
            return words.sub(ERASED, parts.sub(ERASED, value))
        if isinstance(value, dict):
            return {key: overwritten(part) for key, part in value.items()}
        if isinstance(value, list):
            return [overwritten(part) for part in value]
        return value

    return overwritten


def blanked(value: Any) -> Any:
    """The same with every text in it overwritten, whatever it says."""
    if isinstance(value, str):
        return ERASED
    if isinstance(value, dict):
        return {key: blanked(part) for key, part in value.items()}
    if isinstance(value, list):
        return [blanked(part) for part in value]
    return value


def files_with(traces: Traces, files: Iterable[Path]) -> tuple[list[Path], int]:
    """Those of the files that hold one of the facts' own texts, and how many were searched.

    As UTF-8, and as JSON writes it in ASCII; upper and lower case alike. What is only a word that
    others have as a part of theirs is not searched for.
    """
    forms = {
        form
        for text in traces.own
        for written in (text, text.lower(), text.upper())
        for form in (written.encode(), json.dumps(written)[1:-1].encode())
    }
    if not forms:
        return [], 0
    longest = max(map(len, forms))
    either = b"|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    finder = re.compile(either, re.IGNORECASE)
    found, count = [], 0
    for path in files:
        count += 1
        if _holds(path, finder, longest):
            found.append(path)
    return found, count


def _holds(path: Path, finder: re.Pattern[bytes], longest: int) -> bool:
    try:
        with path.open("rb") as file:
            tail = b""
            while chunk := file.read(CHUNK):
                if finder.search(tail + chunk):
                    return True
                tail = (tail + chunk)[-longest:]
    except FileNotFoundError:
        pass  # it went meanwhile
    return False
