"""Bounds of shares and of their changes: what the gate decides by. Pure, each with its source.

Beside each bound stands its power: the chance that it stays within the limit where the truth is a
harmless one, summed over all that could be seen.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from statistics import NormalDist, fmean

import numpy as np
from scipy import special, stats

#: Questions up to which all that could be seen is listed; of more, an approximation will do.
MOST_ENUMERATED = 200
NUISANCE_POINTS = 100  #: shares gained at which the level is worked out, small ones and all
BETWEEN_POINTS = 2e-4  #: the level may be so much higher between two of them


def exact_interval(share: float, count: int, *, confidence: float) -> tuple[float, float]:
    """The one-sided lower and upper bounds of a proportion (Clopper and Pearson 1934)."""
    right = share * count
    low = stats.beta.ppf(1 - confidence, right, count - right + 1) if right > 0 else 0.0
    high = stats.beta.ppf(confidence, right + 1, count - right) if right < count else 1.0
    return float(low), float(high)


def exact_power(true_share: float, count: int, *, floor: float, confidence: float) -> float:
    """The chance that the exact lower bound of so many reaches the floor."""

    def is_enough(right: int) -> bool:
        return exact_interval(right / count, count, confidence=confidence)[0] >= floor

    needed = _least(is_enough, count)
    return 0.0 if needed is None else float(stats.binom.sf(needed - 1, count, true_share))


def sampled_bound(share: float, drawn: int, population: int, confidence: float) -> float:
    """The lower bound of a population's share, from a sample drawn without replacement.

    The least number right in the population of which so many in the sample are no surprise, by the
    hypergeometric distribution (Cochran 1977, section 3.6). A fraction of a fact is not counted.
    Where all were drawn it is the share itself.
    """
    if drawn >= population:
        return share
    right = math.floor(share * drawn + 1e-9)

    def is_surprise(known: int) -> bool:
        return bool(stats.hypergeom.sf(right - 1, population, known, drawn) <= 1 - confidence)

    low, high = right - 1, population - (drawn - right)  # the last is never a surprise
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_surprise(middle) else (low, middle)
    return high / population


def sampled_power(
    true_share: float, drawn: int, population: int, *, floor: float, confidence: float
) -> float:
    """The chance that `sampled_bound` reaches the floor."""

    def is_enough(right: int) -> bool:
        return sampled_bound(right / drawn, drawn, population, confidence) >= floor

    needed = _least(is_enough, drawn)
    known = round(true_share * population)
    if needed is None:
        return 0.0
    return float(stats.hypergeom.sf(needed - 1, population, known, drawn))


def paired_interval(
    *, gained: float, lost: float, asked: float, confidence: float, margin: float | None = None
) -> tuple[float, float]:
    """One-sided lower and upper bounds of p_after - p_before (Tango 1998), by bisection.

    With a `margin` they are as far out as it takes for the level to be exact there
    (`paired_quantile`); else the normal approximation is trusted.
    """
    z = paired_quantile(asked, margin, confidence)
    estimate = (gained - lost) / asked

    def score(difference: float) -> float:
        return tango_score(gained=gained, lost=lost, asked=asked, difference=difference)

    low = _crossing(-1.0, estimate, lambda at: score(at) > z)
    high = _crossing(estimate, 1.0, lambda at: score(at) > -z)
    return low, high


def paired_quantile(asked: float, margin: float | None, confidence: float) -> float:
    """What Tango's score must exceed for a loss of `margin` to be ruled out.

    The normal quantile, or more where that would let a candidate whose true loss is the margin
    through more often than 1 - confidence, whatever it gains: an exact unconditional test, ordered
    by the score. It matters where few are asked: of ten, with a margin of .15, the normal one lets
    .065 through, of 60 .052 and of 700 .0503.
    """
    if margin is None or not 0 < margin < 1 or not 1 <= asked <= MOST_ENUMERATED:
        return NormalDist().inv_cdf(confidence)
    return _exact_quantile(int(asked), round(margin, 6), confidence)


@lru_cache(maxsize=4096)
def _exact_quantile(asked: int, margin: float, confidence: float) -> float:
    gained, lost = np.indices((asked + 1, asked + 1)).reshape(2, -1)
    is_possible = gained + lost <= asked
    gained, lost = gained[is_possible], lost[is_possible]
    scores = np.array(
        [
            tango_score(gained=some, lost=others, asked=asked, difference=-margin)
            for some, others in zip(gained.tolist(), lost.tolist(), strict=True)
        ]
    )
    order = np.argsort(-scores, kind="stable")
    scores, gained, lost = scores[order], gained[order], lost[order]
    factorials = special.gammaln(np.arange(asked + 1) + 1)
    same = asked - gained - lost
    ways = factorials[asked] - factorials[gained] - factorials[lost] - factorials[same]
    most = (1 - margin) / 2
    small, all_over = np.geomspace(1e-4, 0.1, NUISANCE_POINTS), np.linspace(0, 1, NUISANCE_POINTS)
    worst = np.zeros(len(scores))
    for share in most * np.concatenate([small, all_over]):
        logs = (
            ways
            + special.xlogy(gained, share)
            + special.xlogy(lost, share + margin)
            + special.xlogy(same, max(0.0, 1 - margin - 2 * share))
        )
        worst = np.maximum(worst, np.cumsum(np.exp(logs)))
    first_too_many = int(np.searchsorted(worst, 1 - confidence - BETWEEN_POINTS, side="right"))
    excluded = scores[min(first_too_many, len(scores) - 1)]
    passing = scores[scores > excluded + 1e-9]
    # Half-way to the next: where a bound is found by bisection, neither falls on the other's side.
    halfway = (excluded + passing[-1]) / 2 if len(passing) else excluded + 1
    return max(NormalDist().inv_cdf(confidence), float(halfway))


def paired_power(
    *, changed: float, asked: float, margin: float, confidence: float, is_exact: bool = True
) -> float:
    """The chance that Tango's lower bound is above minus the margin where in truth nothing is lost.

    `changed` is the share of answers that change, in truth as often for the better as for the
    worse. The sum is over how many change and how many of these are lost. `is_exact` says whether
    the bound's level is made exact at the margin.
    """
    count = max(1, round(asked))
    z = paired_quantile(asked, margin if is_exact else None, confidence)

    def within(changes: int, gained: int) -> bool:
        lost = changes - gained
        return tango_score(gained=gained, lost=lost, asked=count, difference=-margin) > z

    least, most = (int(stats.binom.ppf(at, count, changed)) for at in (1e-9, 1 - 1e-9))
    seen = range(least, most + 1)
    needed = [_least(partial(within, changes), changes) for changes in seen]
    enough = [
        changes + 1 if gained is None else gained
        for changes, gained in zip(seen, needed, strict=True)
    ]
    passes = stats.binom.sf([gained - 1 for gained in enough], seen, 0.5)
    return float((stats.binom.pmf(seen, count, changed) * passes).sum())


def mean_power(deviation: float, count: int, *, margin: float, confidence: float) -> float:
    """The chance that the upper t bound of a mean is below the margin where the mean is 0.

    `deviation` is the standard deviation of one value. By the noncentral t distribution.
    """
    if deviation <= 0:
        return 1.0
    quantile = stats.t.ppf(confidence, count - 1)
    away = -margin * math.sqrt(count) / deviation
    return float(stats.nct.cdf(-quantile, count - 1, away))


def _least(holds: Callable[[int], bool], most: int) -> int | None:
    """The least of 0 to `most` for which it holds, as it does for all above it; by bisection."""
    if not holds(most):
        return None
    low, high = -1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def tango_score(*, gained: float, lost: float, asked: float, difference: float) -> float:
    """Tango's z for the hypothesis p_after - p_before = difference; it falls as that rises.

    `variance` puts in the maximum likelihood estimate of the lost cell under the hypothesis.
    """
    a = 2 * asked
    b = -gained - lost + (2 * asked - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    lost_share = (root - b) / (2 * a)
    variance = asked * (2 * lost_share + difference * (1 - difference))
    excess = gained - lost - asked * difference
    if variance <= 0:
        return math.copysign(math.inf, excess) if abs(excess) > 1e-12 else 0.0
    return excess / math.sqrt(variance)


def _crossing(low: float, high: float, is_left: Callable[[float], bool]) -> float:
    """Where `is_left` turns from true to false between low and high, to 1e-9."""
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if is_left(middle) else (low, middle)
    return (low + high) / 2


def design_effect(clusters: Collection[Sequence[float]]) -> float:
    """How much more a mean varies than if all values in the clusters were independent; at least 1.

    Counts divided by it may be taken for independent (Rao and Scott 1992, Biometrics 48, 577-585).
    """
    mean = fmean(value for some in clusters for value in some)
    apart = sum((value - mean) ** 2 for some in clusters for value in some)
    together = sum(sum(value - mean for value in some) ** 2 for some in clusters)
    return max(1.0, together / apart) if apart > 0 else 1.0
