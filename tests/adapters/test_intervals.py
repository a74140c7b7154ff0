"""The bounds: that they agree with what is published, and keep their level."""

import math
from collections.abc import Callable
from random import Random
from statistics import fmean, stdev

import pytest
from scipy import optimize, stats

from adapters.intervals import (
    design_effect,
    exact_interval,
    exact_power,
    mean_power,
    paired_interval,
    paired_power,
    sampled_bound,
    sampled_power,
    tango_score,
)


def test_half_a_fact_of_a_census_counts_as_half() -> None:
    assert sampled_bound(6.5 / 9, 9, 9, 0.95) == 6.5 / 9


@pytest.mark.parametrize("population", [20, 49, 60, 100, 1000])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_the_bound_of_a_sampled_share_keeps_its_level(population: int, share: float) -> None:
    """At a true share just below one, at most one sample in twenty is bounded above it."""
    drawn = min(48, population - 1)
    known = math.ceil(share * population) - 1
    wrong = sum(
        float(stats.hypergeom.pmf(right, population, known, drawn))
        for right in range(drawn + 1)
        if sampled_bound(right / drawn, drawn, population, 0.95) >= share
    )
    assert wrong <= 0.05


@pytest.mark.parametrize("right", [0, 1, 30, 48])
def test_where_all_were_drawn_the_bound_is_the_share(right: int) -> None:
    assert sampled_bound(right / 48, 48, 48, 0.95) == right / 48


def test_tangos_score_agrees_with_a_maximised_likelihood() -> None:
    """The closed form of the constrained estimate, against a numerical maximum."""
    for gained, lost, asked, difference in [(12, 2, 50, 0.05), (3, 9, 160, -0.02), (0, 4, 80, 0.0)]:

        def negative_likelihood(
            lost_share: float,
            gained: int = gained,
            lost: int = lost,
            asked: int = asked,
            difference: float = difference,
        ) -> float:
            gained_share = lost_share + difference
            same_share = 1 - gained_share - lost_share
            cells = (
                (gained, gained_share),
                (lost, lost_share),
                (asked - gained - lost, same_share),
            )
            return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

        bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
        best = optimize.minimize_scalar(
            negative_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        variance = asked * (2 * best + difference - difference**2)
        expected = (gained - lost - asked * difference) / math.sqrt(variance)
        assert tango_score(
            gained=gained, lost=lost, asked=asked, difference=difference
        ) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "margin"), [(6, 0.05), (10, 0.15), (15, 0.1), (29, 0.1), (54, 0.15)]
)
def test_with_few_questions_a_loss_of_the_margin_is_let_through_no_more_often(
    asked: int, margin: float
) -> None:
    """All that could be seen, at shares gained of their own; the normal quantile lets more."""

    def let_through(gained_share: float, margin_known: float | None) -> float:
        lost_share = gained_share + margin
        total = 0.0
        for gained in range(asked + 1):
            for lost in range(asked + 1 - gained):
                low, _ = paired_interval(
                    gained=gained, lost=lost, asked=asked, confidence=0.95, margin=margin_known
                )
                if low > -margin:  # as the gate asks
                    same = asked - gained - lost
                    total += stats.multinomial.pmf(
                        [gained, lost, same],
                        asked,
                        [gained_share, lost_share, 1 - gained_share - lost_share],
                    )
        return total

    shares = [(1 - margin) / 2 * at / 23 for at in range(24)]
    assert max(let_through(share, margin) for share in shares) <= 0.05
    if asked == 10:
        assert max(let_through(share, None) for share in shares) > 0.06


def test_tangos_interval_of_a_published_case() -> None:
    """Complete response before and after therapy, 161 patients, 6 gained and 16 lost; 95 %.

    Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8,
    and what its authors' R package contingencytables says of the table (59, 6, 16, 80).
    """
    found = paired_interval(gained=6, lost=16, asked=161, confidence=0.975)
    assert tuple(round(bound, 4) for bound in found) == (-0.1240, -0.0054)


def test_a_loss_at_the_margin_is_let_through_at_most_one_time_in_twenty() -> None:
    """2,000 simulated candidates whose true loss is the margin; 3 standard errors allowed."""
    rng = Random(7)
    asked, margin = 200, 0.05
    through = 0
    for _ in range(2000):
        draws = [rng.random() for _ in range(asked)]
        lost = sum(draw < 0.07 for draw in draws)
        gained = sum(0.07 <= draw < 0.09 for draw in draws)
        low, _ = paired_interval(gained=gained, lost=lost, asked=asked, confidence=0.95)
        through += low > -margin
    assert through / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684)],
)
def test_the_exact_bounds_of_published_cases(
    right: int, asked: int, low: float, high: float
) -> None:
    """95 % two-sided (Newcombe 1998, Statistics in Medicine 17, 857, table I, method 5)."""
    found = exact_interval(right / asked, asked, confidence=0.975)
    assert tuple(round(bound, 4) for bound in found) == (low, high)


def test_values_that_vary_together_count_less_and_others_as_they_are() -> None:
    alone = [[1.0], [0.0], [0.0], [-1.0], [1.0], [-1.0]]
    assert design_effect(alone) == 1.0
    assert design_effect([some * 3 for some in alone]) == pytest.approx(3.0)
    assert design_effect([[1.0, -1.0], [1.0, -1.0]]) == 1.0  # never less than independent
    assert design_effect([[0.0], [0.0]]) == 1.0


def test_a_power_is_the_share_of_harmless_candidates_that_pass() -> None:
    """Each against a plain simulation of candidates of which the truth is known."""
    random = Random(7)
    runs = 2000

    def mean_of(passes: Callable[[], bool]) -> float:
        return sum(passes() for _ in range(runs)) / runs

    def acquired() -> bool:
        right = sum(random.random() < 0.9 for _ in range(12))
        return exact_interval(right / 12, 12, confidence=0.95)[0] >= 0.6

    def retained() -> bool:
        right = sum(random.sample([True] * 90 + [False] * 10, 40))
        return sampled_bound(right / 40, 40, 100, 0.95) >= 0.8

    def kept() -> bool:
        changes = [random.random() < 0.08 for _ in range(150)]
        gained = sum(change and random.random() < 0.5 for change in changes)
        lost = sum(changes) - gained
        low, _ = paired_interval(gained=gained, lost=lost, asked=150, confidence=0.95, margin=0.05)
        return low > -0.05

    def unchanged() -> bool:
        rises = [random.gauss(0, 0.1) for _ in range(12)]
        reach = stats.t.ppf(0.95, 11) * stdev(rises) / math.sqrt(12)
        return bool(fmean(rises) + reach < 0.06)

    for power, passes in (
        (exact_power(0.9, 12, floor=0.6, confidence=0.95), acquired),
        (sampled_power(0.9, 40, 100, floor=0.8, confidence=0.95), retained),
        (paired_power(changed=0.08, asked=150, margin=0.05, confidence=0.95), kept),
        (mean_power(0.1, 12, margin=0.06, confidence=0.95), unchanged),
    ):
        assert 0.2 < power < 0.98  # neither is certain
        assert abs(power - mean_of(passes)) < 4 * math.sqrt(power * (1 - power) / runs)


def test_where_nothing_could_pass_there_is_no_power() -> None:
    assert exact_power(1.0, 2, floor=0.4, confidence=0.95) == 0
    assert sampled_power(1.0, 2, 100, floor=0.4, confidence=0.95) == 0
    assert paired_power(changed=0.0, asked=20, margin=0.05, confidence=0.95) == 0
    assert paired_power(changed=0.0, asked=700, margin=0.05, confidence=0.95) == 1
    assert mean_power(0.0, 5, margin=0.05, confidence=0.95) == 1
