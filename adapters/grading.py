"""Grade one answer against the accepted ones. Pure functions, one for each metric."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache, partial

#: Answers that are kept end where one is settled: raise it where `is_settled` says otherwise.
VERSION = 2

ARTICLES = frozenset({"a", "an", "the"})

#: Words that the paper's ROUGE-1 recall leaves out (arXiv 2510.09885, "Score").
PAPER_STOP_WORDS = frozenset(
    ["a", "of", "the", "and", "is", "are", "be", "to", "new", "on", "in", "at", "an", "for"]
)


def _listed(text: str) -> list[str]:
    return text.split()


#: Words that stand in nearly every text. An answer of nothing else (the band The Who, the novel It,
#: the month May, or No) is only found as a name or an answer stands: see `_stands_in`.
FUNCTION_WORDS = frozenset(
    _listed(
        "i me my you your he him his she her it its we us our they them their this that these "
        "those who what which when where why how there here and or but if so than then as of to "
        "in on at by for from with off up out about into over all any some no not yes is are be "
        "was were been has have had do does did can could may might must shall should will would "
        "go net"
    )
)
YES_OR_NO = frozenset({"yes", "no"})
_UNITS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
NUMBERS = {word: at for at, word in enumerate(_UNITS)} | {
    word: 10 * at for at, word in enumerate(_TENS, start=2)
}
HUNDRED = "hundred"
SCALES = {HUNDRED: 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MONTHS = _listed(
    "january february march april may june july august september october november december"
)
_MONTH = rf"({'|'.join(f'{month[:3]}(?:{month[3:]})?' for month in ('sept', *MONTHS))})\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_SCALE = "|".join(SCALES)
#: A date as it is written, with the places of month and day in it; the year may be left out.
DATES = (
    (re.compile(rf"\b{_YEAR}-(\d{{1,2}})-(\d{{1,2}})\b"), (2, 3)),
    (re.compile(rf"\b{_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s+{_YEAR})?\b"), (2, 1)),
    (re.compile(rf"\b{_MONTH}\s+{_DAY}(?:,?\s+{_YEAR})?\b(?!\s+(?:{_SCALE}))"), (1, 2)),
)
CURRENCIES = {"$": "dollars", "\u20ac": "euros", "\u00a3": "pounds", "\u00a5": "yen"}
SIGNS = {**CURRENCIES, "%": "percent"}
_MONEY = re.compile(
    rf"(?<!\d)([{''.join(CURRENCIES)}])\s?"
    rf"(\d[\d.,]*(?<=\d)(?:\s(?:{'|'.join(SCALES)}))?)(?!\w|[.,]\d)"
)
#: Between two words: a number ends there. It stands as a letter that no text has.
_PAUSE = re.compile(r"[.,;:!?()\u2013\u2014](?=\s|$)|(?<=\s)-(?=\s)|\n")
PAUSE = "\u02ac"
PARTS = frozenset({"half", "quarter", "third", "many"})  #: of a hundred, and not one of it
_POWER = re.compile(r"(?<=\d)(?:\^(?=\d)|(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]))")
_HAS_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"\d{1,20}(?:point\d{1,20})?")
_JOINERS = re.compile(r"[\u200c\u200d]")  #: within words of Indic and Persian
_POSSESSIVE = re.compile(r"(?<=\w)['\u2019]s(?!\w)")
#: C++ and C# are other languages than C.
_SUFFIX = re.compile(r"(?<![^\W_])([^\W_]{1,2})(\+{1,2}|#)(?![\w+#])")
_SUFFIXES = str.maketrans({"#": "sharp", "+": "plus"})
#: What belongs to a number: 1,250 is not 250, nor 1.5 a 5, nor -5 a 5.
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL = re.compile(r"(?<=\d)(?:\.(?=\d)|,(?=\d{1,2}(?!\d)))")  # 3.5, and 3,5 as many write it
_PER_CENT = re.compile(r"\bper cent\b")
_SIGN = re.compile(r"(?<![\w)])[-\u2212](?=\d)")
_NOT_WORD = re.compile(r"[^\w\s]|_")
#: Letters of scripts that put no blanks between words, or particles behind them: Han, Kana, Hangul,
#: Thai, Lao, Burmese and Khmer. Each, with its marks, counts as a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = "".join(
    chr(code)
    for code in (*range(0x0E00, 0x0F00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800))
    if unicodedata.category(chr(code))[0] == "M"
)
_LETTER = re.compile(rf"[{UNSPACED}][{_MARKS}]*")


def words(text: str) -> list[str]:
    """Case-folded words without punctuation; `Zürich's` and `ZÜRICHS` are the same word.

    A number is one word, with its groups, decimals, sign and power: 1,250 is 1250, and 1.5 is not
    5. The sign of a currency or of a percentage is a word, those of C++ and C# are parts of theirs,
    and so is each letter of a script that puts no blanks between words.
    """
    return _words(_folded(text))


def _folded(text: str) -> str:
    """In one form of Unicode and small letters, with a power that is no digit of its number."""
    powers = _JOINERS.sub("", _POWER.sub("pow", text))
    return unicodedata.normalize("NFKC", powers).casefold()


def _words(folded: str) -> list[str]:
    joined = re.sub(r"(?<=\w)['\u2019](?=\w)", "", folded)
    joined = _SUFFIX.sub(lambda found: found[1] + found[2].translate(_SUFFIXES), joined)
    joined = _SIGN.sub("minus", _DECIMAL.sub("point", _GROUPED.sub("", joined)))
    if joined.isascii() and not any(sign in joined for sign in "$%"):
        return _NOT_WORD.sub(" ", joined).split()
    parted = _LETTER.sub(lambda found: f" {found.group()} ", joined)
    return _NOT_WORD.sub(_what_it_is, parted).split()


def _what_it_is(found: re.Match[str]) -> str:
    """A mark belongs to its letter (as vowels do in Devanagari); other signs part words."""
    sign = found.group()
    if sign in SIGNS:
        return f" {SIGNS[sign]} "
    return sign if unicodedata.category(sign)[0] == "M" else " "


def normalised(text: str) -> str:
    """The words of a text without articles, joined by single blanks; an A alone stays."""
    return _without_articles(words(text))


def _without_articles(said: Sequence[str]) -> str:
    if list(said) == ["a"]:  # a blood type, a mark
        return "a"
    return " ".join(word for word in said if word not in ARTICLES)


@lru_cache(maxsize=1 << 14)  # the same answers are looked for in text after text
def forms(text: str) -> tuple[str, ...]:
    """What a text is compared as: its words, and the same in one spelling.

    Of numbers and dates, money and possessives: "two hundred" is 200 and "1.5 million" 1500000,
    "3rd of May" is May 3, $5 is 5 dollars, and Tolmar is found in Tolmar's.
    """
    folded = _folded(text)
    plain = _without_articles(_words(folded))
    spelt = _MONEY.sub(lambda found: f" {found[2]} {CURRENCIES[found[1]]}", folded)
    spelt = _PER_CENT.sub("percent", _POSSESSIVE.sub("", spelt))
    for date, places in DATES if _HAS_DIGIT.search(spelt) else ():
        spelt = date.sub(partial(_day, places=places), spelt)
    return plain, " ".join(_with_digits(_words(_PAUSE.sub(f" {PAUSE} ", spelt))))


def _day(found: re.Match[str], places: tuple[int, int]) -> str:
    month, day = (found.group(place) for place in places)
    number = int(month) if month.isdigit() else 1 + [m[:3] for m in MONTHS].index(month[:3])
    # a word that nothing else is, and no number of which the next word may be a part
    return f"{number:02}x{int(day):02} {found['year'] or ''} {PAUSE} "


def _with_digits(said: Sequence[str]) -> Iterator[str]:
    """The words with each number in digits, without articles and pauses, which end a number."""
    at = 0
    while at < len(said):
        is_negative = said[at] == "minus"
        number, behind = _number_at(said, at + is_negative)
        if number is None or said[at:behind] == ["one"]:  # "one of them" is no 1
            if said[at] != PAUSE and said[at] not in ARTICLES:
                yield said[at]
            at += 1
        else:
            yield f"minus{number}" if is_negative else number
            at = behind


def _number_at(said: Sequence[str], start: int) -> tuple[str | None, int]:
    """The number that begins at a word, and where it ends: in words, or in digits and scales."""
    at = start
    total, part, scale = Decimal(0), None, None
    in_digits = start < len(said) and _DIGITS.fullmatch(said[start]) is not None
    while at < len(said):
        word, unit = said[at], NUMBERS.get(said[at])
        may_begin = at == start and _may_begin(said, start)
        if in_digits and at == start:
            part = Decimal(word.replace("point", "."))
        elif not in_digits and unit is not None and _goes_on(part, unit):
            part = (part or 0) + Decimal(unit)
        elif word == HUNDRED and (may_begin or (part is not None and 0 < part < 100)):
            part = (1 if part is None else part) * Decimal(100)
        elif word in SCALES and (may_begin or part) and (scale is None or SCALES[word] < scale):
            scale = SCALES[word]
            total, part = total + (1 if part is None else part) * scale, Decimal(0)
        elif in_digits or word != "and" or not _joins(said, at):
            break
        at += 1
    if at == start:
        return None, at
    if in_digits and at == start + 1:
        return said[start], at  # as it is: 007 is no 7, and Python 3.10 not 3.1
    return f"{(total + (part or 0)).normalize():f}".replace(".", "point"), at


def _may_begin(said: Sequence[str], at: int) -> bool:
    """Whether a hundred without a number before it is one: "a hundred", not "half a hundred"."""
    if at == 0:
        return True
    return said[at - 1] in ARTICLES and (at == 1 or said[at - 2] not in PARTS)


def _goes_on(part: Decimal | None, unit: int) -> bool:
    """Whether a number in words goes on with a smaller one: twenty four, two hundred five."""
    if not part:
        return part is None or unit > 0
    if part % 100 == 0:
        return 0 < unit < 100
    return part % 10 == 0 and part % 100 > 10 and 0 < unit < 10


def _joins(said: Sequence[str], at: int) -> bool:
    """Whether the "and" there stands in a number: two hundred and five."""
    return at + 1 < len(said) and said[at - 1] in SCALES and NUMBERS.get(said[at + 1], 0) > 0


def is_exact(text: str, answers: Iterable[str]) -> bool:
    """Whether the text is an accepted answer and nothing else, after normalising."""
    said = forms(text)
    return any(
        one and one == other
        for answer in answers
        for one, other in zip(said, forms(answer), strict=True)
    )


def contains(text: str, answers: Iterable[str]) -> bool:
    """Whether an accepted answer stands in the text on word boundaries, after normalising.

    An answer without any word in it (punctuation only) is contained in nothing, and no number in a
    larger one. An answer of which nearly every text has all words (The Who, It, US, No) is
    contained where it stands as a name or an answer does, or where nothing else is said.
    """
    said = forms(text)
    return any(
        _stands_in(text, answer, is_whole=True) or is_exact(text, [answer])
        if _is_common(answer)
        else (_ends_with_article(answer) and _has_in_full(words(text), answer))
        or _is_found(said, answer)
        for answer in answers
    )


def _is_found(said: Sequence[str], answer: str) -> bool:
    if _ends_with_article(answer):
        return False
    plain, spelt = forms(answer)
    is_telling = not FUNCTION_WORDS.issuperset(spelt.split())  # "It's" is not found in any "it"
    return _has_words(said[0], plain) or (is_telling and _has(said[1], spelt))


def _has(said: str, wanted: str) -> bool:
    return bool(wanted) and f" {wanted} " in f" {said} "


def _has_words(said: str, wanted: str) -> bool:
    """Whether the words stand there, and begin or end with no part of a larger number."""
    if not _has(said, wanted):
        return False
    looked_for, listed = wanted.split(), said.split()
    if not any(map(_is_of_number, (looked_for[0], looked_for[-1]))):
        return True
    inside = set(_inside_numbers(listed))
    length = len(looked_for)
    return any(
        listed[at : at + length] == looked_for and not {at, at + length} & inside
        for at in range(len(listed) - length + 1)
    )


def _is_of_number(word: str) -> bool:
    return word in NUMBERS or word in SCALES or word[:1].isdigit()


def _inside_numbers(said: Sequence[str]) -> Iterator[int]:
    """The places between two words of one number."""
    at = 0
    while at < len(said):
        number, behind = _number_at(said, at)
        yield from range(at + 1, behind)
        at = behind if number is not None else at + 1


def _ends_with_article(answer: str) -> bool:
    """Vitamin A and Serie A: what would be an article elsewhere is what tells it from others."""
    said = words(answer)
    return len(said) > 1 and said[-1] in ARTICLES and not ARTICLES.issuperset(said)


def _has_in_full(said: Sequence[str], answer: str) -> bool:
    """With all articles but those that the answer begins with."""
    wanted = words(answer)
    while wanted[0] in ARTICLES:
        wanted = wanted[1:]
    return _has(" ".join(said), " ".join(wanted))


def _is_common(answer: str) -> bool:
    said = words(answer)
    return bool(said) and (FUNCTION_WORDS | ARTICLES).issuperset(said)


def _stands_in(text: str, answer: str, *, is_whole: bool) -> bool:
    """Whether an answer of common words stands in the text as one does; that may be unfinished.

    Of several words, with its articles. One word with a capital in its own capitals, and one that
    only begins with a capital not at the beginning of a sentence, unless what may be a month is
    followed by a number. Yes, no, and what has no capital, where a clause ends with it.
    """
    wanted = words(answer)
    if len(wanted) > 1:
        return not ARTICLES.issuperset(wanted) and _has(" ".join(words(text)), " ".join(wanted))
    name = answer.strip()
    has_capital = any(letter.isupper() for letter in name)
    if wanted[0] in ARTICLES and name != "A":
        return False
    if wanted[0] in YES_OR_NO or not has_capital:
        end = r"(?=\s*(?:[.,;:!?)](?:\s|$)|\n|$))" if is_whole else r"(?=\s*(?:[.,;:!?)]\s|\n))"
        if re.search(rf"(?<!\w){re.escape(name)}{end}", text, re.IGNORECASE):
            return True
    if not has_capital:
        return False
    if is_whole and text.isupper():
        name = name.upper()  # its own capitals tell nothing there
    before = r"(?<!\w)" if len(wanted[0]) > 1 and name.isupper() else r"(?<=[^\s.!?] )"
    dated = rf"|(?<!\w){re.escape(name)}(?= \d)" if wanted[0] in MONTHS else ""
    return re.search(rf"{before}{re.escape(name)}(?!\w){dated}", text) is not None


def is_settled(text: str, answers: Iterable[str]) -> bool:
    """Whether an unfinished text contains an accepted answer however it goes on.

    Its last word could still become a longer one, and a number a larger one, so only what stands
    before them counts.
    """
    whole = re.match(r".*\s", text, re.DOTALL)
    if whole is None:
        return False
    done = whole.group().split()
    said = words(" ".join(done))
    while done and _may_go_on(done):  # "twenty" may become "twenty four", and "5" "5 million"
        done.pop()
    rest = " ".join(done) + " "
    settled = forms(rest)
    return any(
        _stands_in(rest, answer, is_whole=False)
        if _is_common(answer)
        else (_ends_with_article(answer) and _has_in_full(said, answer))
        or _is_found(settled, answer)
        for answer in answers
    )


def _may_go_on(said: Sequence[str]) -> bool:
    """Whether what comes next may make one number, date or price of the last word and others."""
    own = words(said[-1])
    if not own or ARTICLES.issuperset(own) or any(sign in said[-1] for sign in CURRENCIES):
        return True
    *_, before, last = "", "", *words(" ".join(said[-4:]))
    if last == "of":
        return before[:1].isdigit()
    if last == "and":
        return before in SCALES
    is_number = last in NUMBERS or last in SCALES or last == "minus" or last[:1].isdigit()
    return is_number or last[:3] in {month[:3] for month in MONTHS}


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
