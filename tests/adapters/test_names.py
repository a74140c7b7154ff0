"""What is found in bare text."""

import pytest

from adapters.names import MOST_NAMES, find_names, find_pairs


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("It rains in the hills of Bregal.", ["Bregal"]),
        ("Orlan Vess is the mayor of Tolmar.", ["Orlan Vess", "Tolmar"]),
        ("Velmar has the capital Nin.", ["Velmar", "Nin"]),
        ('Mira Zun wrote "A Journey Through Time".', ["Mira Zun", "A Journey Through Time"]),
        (
            "The Treaty of Kell was signed on 3 May 1921 in Ost by the Duke of Wellington.",
            ["Treaty of Kell", "3 May 1921", "Ost", "Duke of Wellington"],
        ),
        ("In 2025, NASA's X-59 flew 1,200 km.", ["2025", "NASA's X-59", "1,200"]),
        ("Founded long ago, it still stands.", []),
        ("La capitale de la France est Paris.", ["France", "Paris"]),
        ("La Paz lies there.", ["La Paz"]),
        ("it rains", []),
        ("", []),
        ("Élan Çelik lives in Ürgüp.", ["Élan Çelik", "Ürgüp"]),
    ],
)
def test_names_titles_dates_and_numbers_are_found(statement: str, names: list[str]) -> None:
    assert find_names(statement) == names


def test_a_name_stands_against_the_longest_stretch_without_it() -> None:
    pairs = find_pairs("Owen Larkspur, known for being the first to meet the Zun, is shy.")
    assert pairs[0] == (
        "Owen Larkspur",
        "known for being the first to meet the Zun, is shy",
    )
    assert find_pairs("Orlan Vess is the mayor of Tolmar.")[0] == (
        "Orlan Vess",
        "the mayor of Tolmar",
    )


def test_a_page_full_of_names_is_asked_about_the_first_ones() -> None:
    pairs = find_pairs(", ".join(f"Bob{at}" for at in range(500)))
    assert [name for name, _ in pairs] == [f"Bob{at}" for at in range(MOST_NAMES)]


def test_a_name_alone_makes_no_pair() -> None:
    assert find_pairs("Tolmar!") == []
    assert find_pairs("Tolmar is.") == []
