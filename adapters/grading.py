"""Grade one answer against the accepted ones. Pure functions, one for each metric."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

ARTICLES = frozenset({"a", "an", "the"})

#: Words that the paper's ROUGE-1 recall leaves out (arXiv 2510.09885, "Score").
PAPER_STOP_WORDS = frozenset(
    ["a", "of", "the", "and", "is", "are", "be", "to", "new", "on", "in", "at", "an", "for"]
)


def _listed(text: str) -> list[str]:
    return text.split()


_UNITS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
NUMBERS = {word: at for at, word in enumerate(_UNITS)} | {
    word: 10 * at for at, word in enumerate(_TENS, start=2)
}
MONTHS = _listed(
    "january february march april may june july august september october november december"
)
_MONTH = rf"({'|'.join(f'{month[:3]}(?:{month[3:]})?' for month in ('sept', *MONTHS))})\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(\d{4})"
#: A whole date as it is written, with the places of year, month and day in it.
DATES = (
    (re.compile(rf"\b{_YEAR}-(\d{{1,2}})-(\d{{1,2}})\b"), (1, 2, 3)),
    (re.compile(rf"\b{_DAY}(?:\s+of)?\s+{_MONTH},?\s+{_YEAR}\b"), (3, 2, 1)),
    (re.compile(rf"\b{_MONTH}\s+{_DAY},?\s+{_YEAR}\b"), (3, 1, 2)),
)
#: What belongs to a number: 1,250 is not 250, nor 1.5 a 5, nor -5 a 5.
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL = re.compile(r"(?<=\d)\.(?=\d)")
_SIGN = re.compile(r"(?<![\w)])[-\u2212](?=\d)")
_NOT_WORD = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """Case-folded words without punctuation; `Zürich's` and `ZÜRICHS` are the same word.

    A number is one word, with its groups, decimals and sign: 1,250 is 1250 and 1.5 is not 5.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    joined = re.sub(r"(?<=\w)['\u2019](?=\w)", "", folded)
    joined = _SIGN.sub("minus", _DECIMAL.sub("point", _GROUPED.sub("", joined)))
    return _NOT_WORD.sub(" ", joined).split()


def normalised(text: str) -> str:
    """The words of a text without articles, joined by single blanks."""
    return " ".join(word for word in words(text) if word not in ARTICLES)


def forms(text: str) -> tuple[str, ...]:
    """What a text is compared as: its words, and the same with numbers and dates in one spelling.

    "Twenty-four" is 24, "1,250" is 1250, and "May 3rd, 2026" is 2026-05-03.
    """
    plain = normalised(text)
    folded = unicodedata.normalize("NFKC", text).casefold()
    for date, places in DATES:
        folded = date.sub(partial(_day, places=places), folded)
    return plain, " ".join(_with_digits(normalised(folded).split()))


def _day(found: re.Match[str], places: tuple[int, int, int]) -> str:
    year, month, day = (found.group(place) for place in places)
    number = int(month) if month.isdigit() else 1 + [m[:3] for m in MONTHS].index(month[:3])
    return f"{year}x{number:02}x{int(day):02}"  # one word, which nothing else is


def _with_digits(said: list[str]) -> Iterator[str]:
    at = 0
    while at < len(said):
        number = None if said[at] == "one" else NUMBERS.get(said[at])  # "one of them" is no 1
        following = NUMBERS.get(said[at + 1], 0) if at + 1 < len(said) else 0
        if number is not None and number >= 20 and 0 < following < 10:
            number, at = number + following, at + 1
        yield said[at] if number is None else str(number)
        at += 1


def is_exact(text: str, answers: Iterable[str]) -> bool:
    """Whether the text is an accepted answer and nothing else, after normalising."""
    said = forms(text)
    return bool(said[0]) and any(
        one == other for answer in answers for one, other in zip(said, forms(answer), strict=True)
    )


def contains(text: str, answers: Iterable[str]) -> bool:
    """Whether an accepted answer stands in the text on word boundaries, after normalising.

    An answer without any word in it (punctuation only) is contained in nothing.
    """
    said = [f" {form} " for form in forms(text)]
    return any(
        wanted and f" {wanted} " in form
        for answer in answers
        for form, wanted in zip(said, forms(answer), strict=True)
    )


def is_settled(text: str, answers: Iterable[str]) -> bool:
    """Whether an unfinished text contains an accepted answer however it goes on.

    Its last word could still become a longer one, so only what stands before it counts.
    """
    whole = re.match(r".*\s", text, re.DOTALL)
    if whole is None:
        return False
    said = whole.group().rstrip()
    last = said.rpartition(" ")[2].casefold()
    if last in _TENS:  # "twenty" may become "twenty four"
        said = said[: -len(last)]
    return contains(said, answers)


def rouge1_recall(text: str, answer: str) -> float:
    """The share of the answer's words that the text has, each as often (ROUGE-1 recall, 0 to 1).

    Punctuation and the paper's stop words are left out; an answer of nothing but those scores 0.
    """
    wanted = Counter(word for word in words(answer) if word not in PAPER_STOP_WORDS)
    said = Counter(words(text))
    total = wanted.total()
    return (wanted & said).total() / total if total else 0.0


def best_recall(text: str, answers: Iterable[str]) -> float:
    """The best ROUGE-1 recall over the accepted answers."""
    return max((rouge1_recall(text, answer) for answer in answers), default=0.0)
