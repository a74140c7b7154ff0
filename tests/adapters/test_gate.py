"""The gate: what passes, what does not, and that its bounds keep their level."""

import math
from random import Random

import pytest
from scipy import optimize

from adapters.config import GateConfig
from adapters.gate import decide, paired_interval, tango_score, wilson_interval
from adapters.types import Answer, Outcome, PassageScore, Probe, ProbeOrigin, Suite, Verdict

CONFIG = GateConfig()


def answers(suite: Suite, right: list[bool], *, wordings: int = 1) -> list[Answer]:
    return [
        Answer(
            probe=Probe(
                key=f"{suite}/{at}",
                suite=suite,
                cluster=str(at // wordings),
                question="?",
                answers=("yes",),
                origin=ProbeOrigin.GIVEN,
            ),
            text="yes" if is_right else "no",
            exact=is_right,
            contained=is_right,
            recall=float(is_right),
        )
        for at, is_right in enumerate(right)
    ]


def judge(
    *,
    forward: list[bool] | None = None,
    backward: list[bool] | None = None,
    lost: int = 0,
    gained: int = 0,
    asked: int = 200,
    rise: float = 0.0,
    passages: int = 24,
) -> Verdict:
    forward = [True] * 16 if forward is None else forward
    backward = [True] * 16 if backward is None else backward
    kept = asked - lost - gained
    first = [False] * gained + [True] * (lost + kept)
    second = [True] * gained + [False] * lost + [True] * kept
    noise = Random(0)
    scores = [1.0 + noise.gauss(0, 0.1) for _ in range(passages)]

    def both(general: list[bool], learned: bool) -> list[Answer]:
        return [
            *answers(Suite.FORWARD, forward if learned else [False] * len(forward), wordings=2),
            *answers(Suite.BACKWARD, backward if learned else [False] * len(backward), wordings=2),
            *answers(Suite.REGRESSION, general),
        ]

    return decide(
        both(first, False),
        both(second, True),
        [PassageScore(passage=str(at), bits_per_byte=bits) for at, bits in enumerate(scores)],
        [
            PassageScore(passage=str(at), bits_per_byte=bits + rise + noise.gauss(0, 0.005))
            for at, bits in enumerate(scores)
        ],
        CONFIG,
    )


def test_a_candidate_that_learned_and_broke_nothing_passes() -> None:
    verdict = judge()
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons == ()


def test_forward_only_fails_at_the_backward_suite() -> None:
    verdict = judge(backward=[False] * 16)
    assert verdict.outcome is Outcome.FAIL
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["acquisition backward"]


def test_lost_general_answers_fail_however_well_the_facts_were_learned() -> None:
    verdict = judge(lost=30)
    assert verdict.outcome is Outcome.FAIL
    assert "30 lost" in verdict.reasons[0]


def test_a_rise_in_bits_per_byte_fails() -> None:
    assert judge(rise=0.2).outcome is Outcome.FAIL


def test_two_facts_are_not_enough_evidence_even_when_both_are_right() -> None:
    verdict = judge(forward=[True] * 4, backward=[True] * 4)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "too few facts" in verdict.reasons[0]


@pytest.mark.parametrize(
    "nothing", [{"forward": []}, {"backward": []}, {"asked": 0}, {"passages": 0}]
)
def test_a_suite_without_results_never_looks_like_a_pass(nothing: dict[str, object]) -> None:
    verdict = judge(**nothing)  # type: ignore[arg-type]
    assert verdict.outcome is Outcome.INSUFFICIENT


def test_a_failure_outweighs_missing_evidence() -> None:
    assert judge(forward=[], lost=40).outcome is Outcome.FAIL


def test_answers_to_other_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="same probes"):
        decide(answers(Suite.FORWARD, [True]), [], [], [], CONFIG)


def test_a_clusters_wordings_do_not_count_as_more_facts() -> None:
    once = judge(forward=[True] * 16).suites[0]
    assert (once.questions, once.clusters) == (16, 8)


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


def test_the_wilson_bound_of_a_published_case() -> None:
    """81 of 263, 95 % two-sided: .2553 to .3662 (Newcombe 1998, Statistics in Medicine 17, 857)."""
    low, high = wilson_interval(81 / 263, 263, confidence=0.975)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
