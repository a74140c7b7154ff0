"""Bounds of shares and of their changes: what the gate decides by. Pure, each with its source.

Beside each bound stands its power: the chance that it stays within the limit where the truth is a
harmless one, summed over all that could be seen.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from statistics import NormalDist, fmean

from scipy import stats


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
    *, gained: float, lost: float, asked: float, confidence: float
) -> tuple[float, float]:
    """One-sided lower and upper bounds of p_after - p_before (Tango 1998), by bisection."""
    z = NormalDist().inv_cdf(confidence)
    estimate = (gained - lost) / asked

    def score(difference: float) -> float:
        return tango_score(gained=gained, lost=lost, asked=asked, difference=difference)

    low = _crossing(-1.0, estimate, lambda at: score(at) > z)
    high = _crossing(estimate, 1.0, lambda at: score(at) > -z)
    return low, high


def paired_power(*, changed: float, asked: float, margin: float, confidence: float) -> float:
    """The chance that Tango's lower bound is above minus the margin where in truth nothing is lost.

    `changed` is the share of answers that change, in truth as often for the better as for the
    worse. The sum is over how many change and how many of these are lost.
    """
    count = max(1, round(asked))
    z = NormalDist().inv_cdf(confidence)

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
