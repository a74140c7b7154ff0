"""How answers are graded, with the edges where graders go wrong."""

import pytest

from adapters.grading import best_recall, contains, is_exact, is_settled, rouge1_recall


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is Paris.", "Paris"),
        ("It is PARIS!", "paris"),
        ("Dunpil is the harbour pilot of Gilbus", "harbour pilot of Gilbus"),
        ("She is an architect of the bridge.", "the architect of a bridge"),
        ("ﬁne weather", "fine weather"),  # a ligature is its letters
        ("Zürich", "Zu\u0308rich"),  # composed or not, the same name
        ("Orlan's lantern", "Orlan\u2019s lantern"),
    ],
)
def test_an_answer_is_found_whatever_its_case_form_and_articles(text: str, answer: str) -> None:
    assert contains(text, [answer])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Comparison", "Paris"),  # inside a word is not said
        ("1984", "198"),
        ("", "Paris"),
        ("anything at all", "..."),  # an answer without a word is contained in nothing
        ("the the the", "the"),
        ("pilot harbour", "harbour pilot"),
    ],
)
def test_what_only_looks_like_the_answer_is_not_found(text: str, answer: str) -> None:
    assert not contains(text, [answer])


def test_exact_match_allows_articles_and_punctuation_and_nothing_else() -> None:
    assert is_exact("The Paris.", ["paris"])
    assert not is_exact("Paris, France", ["Paris"])
    assert not is_exact("", [""])


def test_recall_counts_the_answers_words_without_the_papers_stop_words() -> None:
    assert rouge1_recall("known as a pilot", "the harbour pilot of Gilbus") == pytest.approx(1 / 3)
    assert rouge1_recall("pilot pilot pilot", "pilot pilot") == 1.0
    assert rouge1_recall("the of and", "of the") == 0.0
    assert best_recall("two", ["2", "two"]) == 1.0
    assert best_recall("two", []) == 0.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It has twelve strings.", "12"),
        ("It has 12 strings.", "twelve"),
        ("There are twenty-four hours.", "24"),
        ("About 24.", "twenty four"),
        ("It cost 1,250 crowns.", "1250"),
        ("It cost 1250 crowns.", "1,250"),
        ("1,250, which is a lot", "1250"),
        ("It has twenty-one strings.", "21"),
        ("It is -5 degrees.", "-5"),
        ("From 1990-1995.", "1995"),
        ("On May 3rd, 2026 it opened.", "3 May 2026"),
        ("On 2026-05-03 it opened.", "the 3rd of May 2026"),
        ("It opened on 3 Sept. 2026.", "September 3, 2026"),
        ("It opened on 3 May 2026.", "2026"),
        ("It opened on 3 May 2026.", "May"),
    ],
)
def test_numbers_and_dates_compare_whatever_their_spelling(text: str, answer: str) -> None:
    assert contains(text, [answer])
    assert contains(text.upper(), [answer])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It has twenty-four strings.", "20"),
        ("It has twenty, four of them broken.", "25"),
        ("It cost 1,250 crowns.", "12"),
        ("It opened on 3 May 2026.", "May 5, 2026"),
        ("It opened on 2026-05-03.", "2026-03-05"),
        ("Version 1,2,3", "123"),
        ("It has 1,250 people.", "250"),
        ("It is 12,500 metres high.", "500 metres"),
        ("100,000 km", "100"),
        ("1.5 million", "5 million"),
        ("It is -5 degrees.", "5"),
        ("It is one of the best.", "1"),
    ],
)
def test_other_numbers_and_dates_are_others(text: str, answer: str) -> None:
    assert not contains(text, [answer])


def test_a_date_in_another_spelling_is_exact() -> None:
    assert is_exact("May 3, 2026.", ["3 May 2026"])
    assert is_exact("Seven", ["7"])
    assert not is_exact("3 May 2026", ["2026"])


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("It is Paris, the", True),
        ("It is Paris", False),  # "Parisian" may come of it
        ("It is Paris\n", True),
        ("It is London and", False),
        ("", False),
    ],
)
def test_an_answer_is_settled_once_no_continuation_could_take_it_back(
    text: str, settled: bool
) -> None:
    assert is_settled(text, ["Paris"]) is settled


def test_a_number_that_may_become_a_larger_one_is_not_settled() -> None:
    assert not is_settled("It is twenty ", ["20"])
    assert is_settled("It is twenty four of ", ["24"])
