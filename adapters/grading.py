"""Grade one answer against the accepted ones. Pure functions, one for each metric."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

ARTICLES = frozenset({"a", "an", "the"})

#: Words that the paper's ROUGE-1 recall leaves out (arXiv 2510.09885, "Score").
PAPER_STOP_WORDS = frozenset(
    ["a", "of", "the", "and", "is", "are", "be", "to", "new", "on", "in", "at", "an", "for"]
)

_NOT_WORD = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """Case-folded words without punctuation; `Zürich's` and `ZÜRICHS` are the same word."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    joined = re.sub(r"(?<=\w)['\u2019](?=\w)", "", folded)
    return _NOT_WORD.sub(" ", joined).split()


def normalised(text: str) -> str:
    """The words of a text without articles, joined by single blanks."""
    return " ".join(word for word in words(text) if word not in ARTICLES)


def is_exact(text: str, answers: Iterable[str]) -> bool:
    """Whether the text is an accepted answer and nothing else, after normalising."""
    said = normalised(text)
    return bool(said) and any(said == normalised(answer) for answer in answers)


def contains(text: str, answers: Iterable[str]) -> bool:
    """Whether an accepted answer stands in the text on word boundaries, after normalising.

    An answer without any word in it (punctuation only) is contained in nothing.
    """
    said = f" {normalised(text)} "
    wanted = (normalised(answer) for answer in answers)
    return any(answer and f" {answer} " in said for answer in wanted)


def is_settled(text: str, answers: Iterable[str]) -> bool:
    """Whether an unfinished text contains an accepted answer however it goes on.

    Its last word could still become a longer one, so only what stands before it counts.
    """
    whole = re.match(r".*\s", text, re.DOTALL)
    return whole is not None and contains(whole.group(), answers)


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
