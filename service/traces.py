"""What a fact said, wherever it stands: in the database's text, in files, in logs.

A name that other facts have, too, or the questions that every model is asked, is theirs as well: it
stays, and is counted.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
NAMING = ("subject", "object")  #: short as they may be, these are names
#: Numbers, the base's own vocabulary, and what we or the libraries wrote about a model.
NEVER_TEXT = (
    "*.safetensors",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template*",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "manifest.json",
)
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """The texts of some facts by which their traces are known: always as whole words."""

    own: tuple[str, ...]  #: longest first
    shared: int  #: how many more there are that others say, too


def traces_of(session: Session, rows: Sequence[FactRow], suites: SuitesConfig) -> Traces:
    """What only these facts say: statements, what their senders gave with them, names in both.

    And the words of a name, since who is called by one of them is meant. Text that says nothing by
    itself, such as a date or a common word, is left out.
    """
    said = {text for row in rows for text in _texts(row)}
    by_folded = {text.casefold(): text for text in said}
    shared: set[str] = set()
    if said:
        finder = _finder(said, overlapping=True)
        for other in _other_texts(session, [row.id for row in rows], suites):
            for found in finder.finditer(other):
                shared |= _prefixes(found.group(1).casefold(), by_folded)
    return Traces(
        own=tuple(sorted(said - shared, key=len, reverse=True)),
        shared=len(shared),
    )


def _prefixes(found: str, by_folded: Mapping[str, str]) -> set[str]:
    """The texts that a match of the longest one begins with: each of them stands there, too."""
    ends = [at for at in range(1, len(found) + 1) if at == len(found) or not found[at].isalnum()]
    return {by_folded[found[:end]] for end in ends if found[:end] in by_folded}


def _texts(row: FactRow) -> Iterator[str]:
    for name in SPOKEN:
        for text in strings(getattr(row, name)):
            if name in NAMING and len(text) > 1:
                yield text
            for part in (text, *find_names(text)):
                if _tells(part):
                    yield part
            for part in find_names(text):
                yield from (word for word in re.findall(r"\w{3,}", part) if _tells(word))


def strings(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, without blanks around it; not the names of its fields."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in strings(part))


def _tells(text: str) -> bool:
    """A name, a sentence or a long number; not a date, nor a word of everyday."""
    letters = sum(character.isalpha() for character in text)
    digits = sum(character.isdigit() for character in text)
    if not text.isascii() and letters >= 2:
        return True
    if letters < 3:
        return digits >= 9
    return not (text.isascii() and text.isalpha() and text.islower())


def _other_texts(session: Session, fact_ids: Sequence[int], suites: SuitesConfig) -> Iterator[str]:
    for path in (suites.regression, suites.general_prompts, suites.relations):
        yield path.read_text(encoding="utf-8")
    columns = [getattr(FactRow, name) for name in (*SPOKEN, "tags", "trust")]
    others = select(*columns).where(FactRow.id.not_in(fact_ids), FactRow.erased_at.is_(None))
    for row in session.execute(others.execution_options(yield_per=1000)):
        yield "\n".join(text for value in row for text in strings(value))


def _finder(texts: Iterable[str], *, overlapping: bool = False) -> re.Pattern[str]:
    either = "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)"
    whole = rf"(?<!\w)({either})(?!\w)"
    return re.compile(f"(?={whole})" if overlapping else whole, re.IGNORECASE)


def overwriter(traces: Traces) -> Callable[[Any], Any]:
    """A function that puts a mark in place of every trace in a text, or in the texts of JSON."""
    finder = _finder(traces.own)

    def overwritten(value: Any) -> Any:
        if isinstance(value, str):
            return finder.sub(ERASED, value)
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


def files_with(
    texts: Iterable[str], files: Iterable[Path], *, whole_words: bool = True
) -> tuple[list[Path], int]:
    """Those of the files that hold one of the texts, and how many were searched.

    As UTF-8, and as JSON writes it in ASCII; upper and lower case alike.
    """
    forms = {
        form
        for text in texts
        for written in (text, text.lower(), text.upper())
        for form in (written.encode(), json.dumps(written)[1:-1].encode())
    }
    if not forms:
        return [], 0
    longest = max(map(len, forms)) + 1
    either = b"|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    if whole_words:
        either = rb"(?<![A-Za-z0-9_])(?:" + either + rb")(?![A-Za-z0-9_])"
    finder = re.compile(either, re.IGNORECASE)
    found, count = [], 0
    for path in files:
        count += 1
        if _holds(path, finder, longest):
            found.append(path)
    return found, count


def _holds(path: Path, finder: re.Pattern[bytes], longest: int) -> bool:
    """Whether it is found in a file that is read in parts.

    What begins or ends where a part does is left to the one in which its neighbours can be seen.
    """
    try:
        with path.open("rb") as file:
            tail, chunk = b"", file.read(CHUNK)
            while chunk:
                following = file.read(CHUNK)
                part = tail + chunk
                for found in finder.finditer(part):
                    begins_early = tail and found.start() == 0
                    ends_late = following and found.end() == len(part)
                    if not begins_early and not ends_late:
                        return True
                tail, chunk = part[-longest:], following
    except FileNotFoundError:
        pass  # it went meanwhile
    return False
