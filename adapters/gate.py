"""Decide whether a candidate may be promoted. Pure: paired results in, verdict out.

Every suite must pass (an intersection-union test), so the chance of a false promotion is at most
1 - confidence and no correction for several tests is due. Each suite is decided by one bound:

* acquisition: the lower Wilson bound of the share of facts answered, against a floor. A fact's
  wordings are one cluster, scored by their mean; since such a mean varies no more than a single
  yes or no, the bound keeps its level (Wilson 1927).
* regression: the lower bound of Tango's score interval for the difference of two paired
  proportions, against minus the margin (Tango 1998, Statistics in Medicine 17, 891-908).
* passages: the upper t bound of the mean paired rise in bits per byte, against the margin.

A suite fails when its estimate itself is beyond the limit, and when the estimate is within but the
bound is not, the verdict is "insufficient evidence": more questions could settle it.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev

from scipy import stats

from adapters.config import GateConfig
from adapters.types import Answer, Outcome, PassageScore, Suite, SuiteVerdict, Verdict

BITS_SUITE = "bits per byte"


def decide(
    before: Sequence[Answer],
    after: Sequence[Answer],
    passages_before: Sequence[PassageScore],
    passages_after: Sequence[PassageScore],
    config: GateConfig,
) -> Verdict:
    """The verdict on a candidate from the same probes asked of the head and of the candidate.

    Raises ValueError when the two lists are not answers to the same probes, in the same order.
    """
    if [answer.probe.key for answer in before] != [answer.probe.key for answer in after]:
        raise ValueError("The answers before and after are not to the same probes.")
    if [score.passage for score in passages_before] != [score.passage for score in passages_after]:
        raise ValueError("The passages before and after are not the same.")
    pairs = list(zip(before, after, strict=True))

    def of(suite: Suite) -> list[tuple[Answer, Answer]]:
        return [pair for pair in pairs if pair[0].probe.suite is suite]

    suites = (
        judge_acquisition(Suite.FORWARD, of(Suite.FORWARD), config.forward_floor, config),
        judge_acquisition(Suite.BACKWARD, of(Suite.BACKWARD), config.backward_floor, config),
        judge_regression(of(Suite.REGRESSION), config),
        judge_passages(passages_before, passages_after, config),
    )
    return combine(suites)


def combine(suites: tuple[SuiteVerdict, ...]) -> Verdict:
    """All must pass; one failure is a failure, whatever else lacks evidence."""
    outcomes = [suite.outcome for suite in suites]
    if Outcome.FAIL in outcomes:
        outcome = Outcome.FAIL
    elif Outcome.INSUFFICIENT in outcomes or not outcomes:
        outcome = Outcome.INSUFFICIENT
    else:
        outcome = Outcome.PASS
    return Verdict(
        outcome=outcome,
        suites=suites,
        reasons=tuple(
            f"{suite.suite}: {suite.reason}"
            for suite in suites
            if suite.outcome is not Outcome.PASS
        ),
    )


def judge_acquisition(
    suite: Suite, pairs: Sequence[tuple[Answer, Answer]], floor: float, config: GateConfig
) -> SuiteVerdict:
    """The share of facts that the candidate answers, its wordings averaged within each fact."""
    if not pairs:
        return _without_evidence(suite, floor, "no question was asked")
    before = cluster_means([first for first, _ in pairs])
    after = cluster_means([second for _, second in pairs])
    share, facts = fmean(after), len(after)
    low, high = wilson_interval(share, facts, confidence=config.confidence)
    outcome = _outcome(estimate_is_within=share >= floor, bound_is_within=low >= floor)
    said = f"{share:.2f} of {facts} facts, lower bound {low:.2f}, floor {floor:.2f}"
    return SuiteVerdict(
        suite=suite,
        outcome=outcome,
        questions=len(pairs),
        clusters=facts,
        before=fmean(before),
        after=share,
        difference=share - fmean(before),
        interval=(low, high),
        margin=floor,
        reason=said if outcome is not Outcome.INSUFFICIENT else f"{said}: too few facts to be sure",
    )


def judge_regression(pairs: Sequence[tuple[Answer, Answer]], config: GateConfig) -> SuiteVerdict:
    """General questions: right before and wrong after is a loss, the other way round a gain."""
    margin = config.regression_margin
    if not pairs:
        return _without_evidence(Suite.REGRESSION, margin, "no question was asked")
    lost = sum(first.contained and not second.contained for first, second in pairs)
    gained = sum(second.contained and not first.contained for first, second in pairs)
    asked = len(pairs)
    low, high = paired_interval(gained=gained, lost=lost, asked=asked, confidence=config.confidence)
    difference = (gained - lost) / asked
    outcome = _outcome(estimate_is_within=difference > -margin, bound_is_within=low > -margin)
    return SuiteVerdict(
        suite=Suite.REGRESSION,
        outcome=outcome,
        questions=asked,
        clusters=asked,
        before=fmean(first.contained for first, _ in pairs),
        after=fmean(second.contained for _, second in pairs),
        difference=difference,
        interval=(low, high),
        margin=margin,
        reason=f"{lost} lost and {gained} gained of {asked}, a loss of up to "
        f"{max(0.0, -low):.3f} cannot be ruled out, margin {margin:.3f}",
    )


def judge_passages(
    before: Sequence[PassageScore], after: Sequence[PassageScore], config: GateConfig
) -> SuiteVerdict:
    """Bits per byte on fixed passages, paired; a rise is a loss."""
    margin = config.bits_margin
    if len(before) < 2:
        return _without_evidence(BITS_SUITE, margin, "fewer than two passages were scored")
    rises = [
        second.bits_per_byte - first.bits_per_byte
        for first, second in zip(before, after, strict=True)
    ]
    mean, spread = fmean(rises), stdev(rises) / math.sqrt(len(rises))
    reach = float(stats.t.ppf(config.confidence, len(rises) - 1)) * spread
    outcome = _outcome(estimate_is_within=mean < margin, bound_is_within=mean + reach < margin)
    return SuiteVerdict(
        suite=BITS_SUITE,
        outcome=outcome,
        questions=len(rises),
        clusters=len(rises),
        before=fmean(score.bits_per_byte for score in before),
        after=fmean(score.bits_per_byte for score in after),
        difference=mean,
        interval=(mean - reach, mean + reach),
        margin=margin,
        reason=f"a mean rise of {mean:+.4f}, upper bound {mean + reach:+.4f}, margin {margin:.4f}",
    )


def cluster_means(answers: Sequence[Answer]) -> list[float]:
    """The share of right answers in each cluster."""
    clusters: dict[str, list[bool]] = {}
    for answer in answers:
        clusters.setdefault(answer.probe.cluster, []).append(answer.contained)
    return [fmean(right) for right in clusters.values()]


def wilson_interval(share: float, count: int, *, confidence: float) -> tuple[float, float]:
    """The one-sided lower and upper Wilson bounds of a proportion."""
    z = NormalDist().inv_cdf(confidence)
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def paired_interval(
    *, gained: int, lost: int, asked: int, confidence: float
) -> tuple[float, float]:
    """One-sided lower and upper bounds of p_after - p_before (Tango 1998), by bisection."""
    z = NormalDist().inv_cdf(confidence)
    estimate = (gained - lost) / asked

    def score(difference: float) -> float:
        return tango_score(gained=gained, lost=lost, asked=asked, difference=difference)

    low = _crossing(-1.0, estimate, lambda at: score(at) > z)
    high = _crossing(estimate, 1.0, lambda at: score(at) > -z)
    return low, high


def tango_score(*, gained: int, lost: int, asked: int, difference: float) -> float:
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


def _outcome(*, estimate_is_within: bool, bound_is_within: bool) -> Outcome:
    if bound_is_within:
        return Outcome.PASS
    return Outcome.INSUFFICIENT if estimate_is_within else Outcome.FAIL


def _without_evidence(suite: str, margin: float, why: str) -> SuiteVerdict:
    return SuiteVerdict(
        suite=suite,
        outcome=Outcome.INSUFFICIENT,
        questions=0,
        clusters=0,
        before=None,
        after=None,
        difference=None,
        interval=None,
        margin=margin,
        reason=why,
    )
