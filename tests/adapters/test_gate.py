"""The gate: what passes, and what does not."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from adapters.config import GateConfig
from adapters.gate import REFUSAL, decide, decide_removal
from adapters.intervals import exact_interval
from adapters.judges import (
    REFUSAL_SUITE,
    judge_acquisition,
    judge_known,
    judge_norm,
    judge_passages,
    judge_retention,
    judge_triggers,
)
from adapters.types import (
    Answer,
    Outcome,
    PassageScore,
    Probe,
    ProbeOrigin,
    Suite,
    SuiteVerdict,
    Verdict,
)

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
    leaked: int = 0,
    leakage_asked: int = 64,
    forgotten: int = 0,
    risen: float = 0.0,
    config: GateConfig = CONFIG,
) -> Verdict:
    """`rise` and `lost` since the head, `risen` and `forgotten` before that, since the base."""
    forward = [True] * 16 if forward is None else forward
    backward = [True] * 16 if backward is None else backward
    kept = asked - lost - gained - forgotten
    first = [False] * gained + [True] * (lost + kept) + [False] * forgotten
    second = [True] * gained + [False] * lost + [True] * kept + [False] * forgotten
    noise = Random(0)
    scores = [1.0 + noise.gauss(0, 0.1) for _ in range(passages)]

    def both(general: list[bool], learned: bool) -> list[Answer]:
        return [
            *answers(Suite.FORWARD, forward if learned else [False] * len(forward), wordings=2),
            *answers(Suite.BACKWARD, backward if learned else [False] * len(backward), wordings=2),
            *answers(
                Suite.LEAKAGE,
                [learned and at < leaked for at in range(leakage_asked)],
            ),
            *answers(Suite.REGRESSION, general),
        ]

    base = answers(Suite.REGRESSION, [True] * asked) if forgotten or risen else None
    return decide(
        both(first, False),
        both(second, True),
        [PassageScore(passage=str(at), bits_per_byte=bits) for at, bits in enumerate(scores)],
        [
            PassageScore(passage=str(at), bits_per_byte=bits + rise + noise.gauss(0, 0.005))
            for at, bits in enumerate(scores)
        ],
        config,
        base=base,
        base_passages=[
            PassageScore(passage=str(at), bits_per_byte=bits - risen)
            for at, bits in enumerate(scores)
        ],
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
    ("change", "suite", "unit"),
    [
        ({"forward": [True] * 4, "config": GateConfig(backward_floor=0.0)}, 0, "facts"),
        ({"lost": 7}, 3, "questions"),
        ({"leaked": 6}, 2, "questions"),
        ({"rise": 0.049}, 4, "passages"),
    ],
)
def test_insufficient_evidence_says_how_many_would_settle_it(
    change: dict[str, Any], suite: int, unit: str
) -> None:
    line = judge(**change).suites[suite]
    assert line.outcome is Outcome.INSUFFICIENT
    (said,) = re.findall(r"about (\d+)", line.reason)
    assert int(said) > line.clusters
    assert unit in line.reason


def test_as_many_as_were_said_to_do_are_enough() -> None:
    def lost_of(asked: int) -> SuiteVerdict:
        return judge(lost=asked * 7 // 200, asked=asked).suites[3]

    (said,) = re.findall(r"about (\d+) questions", lost_of(200).reason)
    assert 400 < int(said) < 600
    assert lost_of(400).outcome is Outcome.INSUFFICIENT
    assert lost_of(600).outcome is Outcome.PASS


def test_what_no_reasonable_number_would_settle_is_said_so() -> None:
    rise = judge(rise=0.048).suites[4].difference
    assert rise is not None
    line = judge(rise=0.048, config=GateConfig(bits_margin=rise + 1e-6)).suites[4]
    assert line.outcome is Outcome.INSUFFICIENT
    assert "more than 1536 passages" in line.reason


def test_one_fact_that_was_not_learned_keeps_a_batch_out_where_every_fact_is_wanted() -> None:
    """Eight facts in two wordings each; the fifth answers neither."""
    wanted = GateConfig(every_fact=True)
    right = [True] * 8 + [False, False] + [True] * 6
    assert judge(forward=right).outcome is Outcome.PASS
    verdict = judge(forward=right, config=wanted)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons == ("every fact: not learned: 4",)
    assert judge(config=wanted).outcome is Outcome.PASS


@pytest.mark.parametrize(("still", "outcome"), [(1, Outcome.PASS), (2, Outcome.FAIL)])
def test_old_answers_that_still_come_fail_the_superseded_suite(
    still: int, outcome: Outcome
) -> None:
    """Of four replaced facts in two wordings, some still get their old answer to one of them."""
    before = answers(Suite.SUPERSEDED, [True] * 8, wordings=2)
    after = answers(Suite.SUPERSEDED, [True, False] * still + [False] * (8 - 2 * still), wordings=2)
    lines = decide(before, after, [], [], CONFIG, replaced_facts=4).suites
    (line,) = [line for line in lines if line.suite == Suite.SUPERSEDED]
    assert (line.outcome, line.after, line.clusters) == (outcome, still / 4, 4)
    assert f"{still} of 4 facts" in line.reason


def test_old_answers_are_judged_though_nothing_says_what_they_are_of() -> None:
    """A functional fact may come without an object, and with probes."""
    asked = answers(Suite.SUPERSEDED, [True] * 4)
    lines = decide(asked, asked, [], [], CONFIG).suites
    (line,) = [line for line in lines if line.suite == Suite.SUPERSEDED]
    assert line.outcome is Outcome.FAIL


def test_replaced_facts_of_which_none_can_be_asked_are_no_pass() -> None:
    lines = decide([], [], [], [], CONFIG, replaced_facts=2).suites
    (line,) = [line for line in lines if line.suite == Suite.SUPERSEDED]
    assert line.outcome is Outcome.INSUFFICIENT
    assert "of the 2 facts replaced none can be asked" in line.reason


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        ([True, True, False], Outcome.PASS),
        ([True, True, True], Outcome.PASS),
        ([True, False, True], Outcome.FAIL),
    ],
)
def test_no_pinned_question_may_be_lost_however_many_are_gained(
    after: list[bool], outcome: Outcome
) -> None:
    first, second = (answers(Suite.PINNED, right) for right in ([True, True, False], after))
    lines = decide(first, second, [], [], CONFIG).suites
    (line,) = [line for line in lines if line.suite == Suite.PINNED]
    assert line.outcome is outcome


def related(answers: Sequence[Answer], relation: str, some: int) -> list[Answer]:
    return [
        replace(answer, probe=replace(answer.probe, relation=relation)) if at < some else answer
        for at, answer in enumerate(answers)
    ]


def judge_related(lost: int, *, asked: int, relations: Collection[str]) -> list[SuiteVerdict]:
    """`lost` of the first `asked` general questions, which are about capitals, of 200."""
    right = [False] * lost + [True] * (200 - lost)
    before = related(answers(Suite.REGRESSION, [True] * 200), "capital_of", asked)
    after = related(answers(Suite.REGRESSION, right), "capital_of", asked)
    verdict = decide(before, after, [], [], CONFIG, relations=relations)
    return [line for line in verdict.suites if line.suite == Suite.NEIGHBOURS]


def test_what_is_lost_of_the_batchs_own_relations_shows_at_the_neighbours() -> None:
    (line,) = judge_related(8, asked=60, relations={"capital_of", "written_by"})
    assert (line.outcome, line.questions) == (Outcome.FAIL, 60)
    (kept,) = judge_related(1, asked=60, relations={"capital_of"})
    assert kept.outcome is Outcome.PASS
    assert judge_related(8, asked=60, relations={"written_by"}) == []


@pytest.mark.parametrize(
    ("lost", "asked", "outcome"),
    [
        (0, 28, Outcome.PASS),
        (1, 1, Outcome.PASS),  # at least .05, by chance .95
        (2, 3, Outcome.FAIL),
        (5, 21, Outcome.PASS),
        (6, 21, Outcome.FAIL),
        (21, 21, Outcome.FAIL),
        (2, 29, Outcome.INSUFFICIENT),
    ],
)
def test_of_few_neighbours_a_sure_loss_fails_and_no_loss_need_be_ruled_out(
    lost: int, asked: int, outcome: Outcome
) -> None:
    """Of 28 questions not even all of them kept would show that no tenth was lost."""
    (line,) = judge_related(lost, asked=asked, relations={"capital_of"})
    assert (line.outcome, line.questions) == (outcome, asked)
    assert ("too few to rule a loss out" in line.reason) is (asked < 29)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_questions_that_are_lost_together_count_less(together: int) -> None:
    """A twentieth is lost, in blocks: at most one in twenty may pass a margin of that size."""
    rng, passed, runs = Random(5), 0, 400
    for _ in range(runs):
        blocks = [rng.random() < 0.05 for _ in range(600 // together)]
        right = [not is_lost for is_lost in blocks for _ in range(together)]
        before, after = (
            answers(Suite.REGRESSION, marks, wordings=together)
            for marks in ([True] * len(right), right)
        )
        (line,) = [
            line
            for line in decide(before, after, [], [], CONFIG).suites
            if line.suite == Suite.REGRESSION
        ]
        assert line.clusters == len(blocks)
        passed += line.outcome is Outcome.PASS
    assert passed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    "nothing",
    [{"forward": []}, {"backward": []}, {"leakage_asked": 0}, {"asked": 0}, {"passages": 0}],
)
def test_a_suite_without_results_never_looks_like_a_pass(nothing: dict[str, object]) -> None:
    verdict = judge(**nothing)  # type: ignore[arg-type]
    assert verdict.outcome is Outcome.INSUFFICIENT


@pytest.mark.parametrize(
    ("leaked", "outcome"),
    [(0, Outcome.PASS), (4, Outcome.PASS), (8, Outcome.INSUFFICIENT), (12, Outcome.FAIL)],
)
def test_new_answers_to_questions_about_nobody_are_held_against_the_margin(
    leaked: int, outcome: Outcome
) -> None:
    verdict = judge(leaked=leaked)
    assert verdict.outcome is outcome
    if outcome is not Outcome.PASS:
        assert f"{leaked} of 64 questions" in verdict.reasons[0]


def test_leakage_can_be_done_without() -> None:
    config = CONFIG.model_copy(update={"leakage_margin": None})
    verdict = judge(leaked=64, config=config)
    assert verdict.outcome is Outcome.PASS
    assert Suite.LEAKAGE not in [suite.suite for suite in verdict.suites]


def test_small_losses_that_add_up_since_the_base_are_stopped() -> None:
    """Four are lost since the head, which had forgotten others before."""
    assert judge(lost=4, forgotten=4).outcome is Outcome.PASS
    drifted = judge(lost=4, forgotten=26)
    assert drifted.outcome is Outcome.FAIL
    assert [reason.split(":")[0] for reason in drifted.reasons] == ["regression since base"]


def test_bits_that_add_up_since_the_base_are_stopped() -> None:
    assert judge(rise=0.04, risen=0.01).outcome is Outcome.PASS
    drifted = judge(rise=0.04, risen=0.09)
    assert drifted.outcome is Outcome.FAIL
    assert [reason.split(":")[0] for reason in drifted.reasons] == ["bits per byte since base"]


def test_the_base_must_have_been_asked_the_same() -> None:
    with pytest.raises(ValueError, match="same probes"):
        decide([], [], [], [], CONFIG, base=answers(Suite.REGRESSION, [True]))


def retained(*, known: int, asked: int, lost: int, gained: int = 0) -> SuiteVerdict:
    """Of `asked` facts, each in one direction and two wordings, some change sides."""
    before, after = (
        [
            Answer(
                probe=Probe(
                    key=f"{fact}/{wording}",
                    suite=Suite.RETENTION,
                    cluster=str(fact),
                    question="?",
                    answers=("yes",),
                    origin=ProbeOrigin.RELATION,
                    fact=str(fact),
                ),
                text="",
                exact=False,
                contained=wording == 0 and known_then(fact),
                recall=0.0,
            )
            for fact in range(asked)
            for wording in range(2)
        ]
        for known_then in (lambda fact: fact >= gained, lambda fact: fact < asked - lost)
    )
    return judge_retention(list(zip(before, after, strict=True)), known, CONFIG)


def test_where_every_earlier_fact_was_asked_nothing_is_left_to_chance() -> None:
    census = retained(known=20, asked=20, lost=1)
    assert census.outcome is Outcome.PASS
    assert census.interval == (-0.05, -0.05)
    assert retained(known=20, asked=20, lost=3).outcome is Outcome.FAIL


def test_a_sample_of_the_earlier_facts_leaves_a_doubt_that_shrinks_as_it_grows() -> None:
    assert retained(known=200, asked=20, lost=0).outcome is Outcome.INSUFFICIENT
    reach = [
        interval[0]
        for asked in (20, 100, 180, 200)
        if (interval := retained(known=200, asked=asked, lost=asked // 20).interval)
    ]
    assert reach == sorted(reach)
    assert reach[-1] == -0.05


@pytest.mark.parametrize(
    ("known", "asked", "lost", "gained"),
    [
        (60, 30, 6, 0),
        (60, 50, 6, 0),
        (100, 24, 12, 2),
        (200, 48, 20, 0),
        (200, 100, 24, 4),
        (1000, 48, 100, 0),
        (40, 36, 4, 0),
    ],
)
def test_the_retention_bound_keeps_its_level_on_samples_of_a_small_population(
    known: int, asked: int, lost: int, gained: int
) -> None:
    """A tenth of all facts is lost, net: at most one sample in twenty may pass."""
    assert lost - gained == known // 10
    rng, passed, runs = Random(3), 0, 600
    facts = [-1] * lost + [1] * gained + [0] * (known - lost - gained)
    for _ in range(runs):
        drawn = rng.sample(facts, asked)
        verdict = retained(known=known, asked=asked, lost=drawn.count(-1), gained=drawn.count(1))
        passed += verdict.outcome is Outcome.PASS
    assert passed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def known_now(known: int, *, asked: int, population: int, head_knows: bool = True) -> SuiteVerdict:
    said = [
        replace(answer, probe=replace(answer.probe, fact=answer.probe.cluster))
        for answer in answers(Suite.RETENTION, [at < known for at in range(asked)])
    ]
    before = [replace(answer, contained=head_knows) for answer in said]
    return judge_known(list(zip(before, said, strict=True)), population, CONFIG)


def test_small_losses_add_up_against_what_was_learned_once() -> None:
    assert known_now(20, asked=20, population=20).outcome is Outcome.PASS
    assert known_now(14, asked=20, population=20).outcome is Outcome.PASS  # exactly the floor
    assert known_now(13, asked=20, population=20).outcome is Outcome.FAIL
    assert known_now(46, asked=48, population=200).outcome is Outcome.PASS
    open_ = known_now(36, asked=48, population=200)
    assert open_.outcome is Outcome.INSUFFICIENT
    assert re.search(r"about \d+ facts would do", open_.reason)


def test_a_head_below_the_floor_does_not_keep_out_what_is_no_worse() -> None:
    line = known_now(5, asked=20, population=20, head_knows=False)
    assert line.outcome is Outcome.PASS
    assert "keeping it would mend nothing" in line.reason


def test_a_fact_that_is_lost_in_both_directions_counts_once() -> None:
    def answer(fact: int, direction: str, is_known: bool) -> Answer:
        (one,) = answers(Suite.RETENTION, [is_known])
        probe = replace(one.probe, fact=str(fact), cluster=f"{direction}/{fact}")
        return replace(one, probe=probe)

    both = [(fact, direction) for fact in range(10) for direction in ("forward", "backward")]
    before = [answer(*some, is_known=True) for some in both]
    after = [answer(fact, way, is_known=fact > 1 or (fact, way) == (1, "forward")) for
             fact, way in both]  # fmt: skip
    verdict = judge_retention(list(zip(before, after, strict=True)), 10, CONFIG)
    assert (verdict.clusters, verdict.questions) == (10, 20)
    assert verdict.difference == pytest.approx(-0.15)  # one of ten, and half of another
    assert "1.5 lost" in verdict.reason


def test_facts_that_cannot_be_asked_do_not_hold_up_the_others() -> None:
    """Seven of nine work for the same house, so two are asked who works where."""

    def verdict(backward: list[bool], unasked: int) -> SuiteVerdict:
        pairs = list(
            zip(
                answers(Suite.BACKWARD, [False] * len(backward)),
                answers(Suite.BACKWARD, backward),
                strict=True,
            )
        )
        return judge_acquisition(Suite.BACKWARD, pairs, 0.3, CONFIG, unasked=unasked)

    assert verdict([True, True], 7).outcome is Outcome.PASS
    assert "7 facts not asked" in verdict([True, True], 7).reason
    assert verdict([False, False], 7).outcome is Outcome.FAIL
    assert verdict([True, True], 0).outcome is Outcome.INSUFFICIENT
    assert verdict([True] * 9 + [False] * 7, 7).outcome is Outcome.PASS  # enough are left
    assert verdict([True] * 6 + [False] * 10, 7).outcome is Outcome.INSUFFICIENT


def test_where_no_fact_can_be_asked_backward_the_suite_has_no_line_but_forward_has() -> None:
    def decided(*asked: Suite) -> set[str]:
        before = [one for suite in asked for one in answers(suite, [False] * 16)]
        after = [one for suite in asked for one in answers(suite, [True] * 16)]
        unasked = {Suite.FORWARD: 16, Suite.BACKWARD: 16}
        verdict = decide(before, after, [], [], CONFIG, unasked=unasked)
        return {line.suite for line in verdict.suites}

    assert Suite.BACKWARD not in decided(Suite.FORWARD)
    assert Suite.FORWARD in decided(Suite.FORWARD)
    assert {Suite.FORWARD, Suite.BACKWARD} <= decided()  # nothing asked is never a pass


def test_a_fact_half_of_whose_wordings_are_answered_counts_as_known() -> None:
    assert retained(known=20, asked=20, lost=0).before == 1.0


def test_a_failure_outweighs_missing_evidence() -> None:
    assert judge(forward=[], lost=40).outcome is Outcome.FAIL


def test_answers_to_other_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="same probes"):
        decide(answers(Suite.FORWARD, [True]), [], [], [], CONFIG)


def test_a_clusters_wordings_do_not_count_as_more_facts() -> None:
    once = judge(forward=[True] * 16).suites[0]
    assert (once.questions, once.clusters) == (16, 8)


@pytest.mark.parametrize("suite", [Suite.FORWARD, Suite.BACKWARD])
@pytest.mark.parametrize("facts", [4, 8, 12, 24, 48])
@pytest.mark.parametrize("halves", [0.0, 0.5])
def test_what_is_learned_at_the_floor_passes_at_most_once_in_twenty(
    suite: Suite, facts: int, halves: float
) -> None:
    """Half of the facts answer one of two wordings, or all both or none."""
    floor = CONFIG.forward_floor if suite is Suite.FORWARD else CONFIG.backward_floor
    weights = (floor - halves * floor, 2 * halves * floor, 1 - floor - halves * floor)
    rng, passed, runs = Random(facts), 0, 1000
    for _ in range(runs):
        means = rng.choices((1.0, 0.5, 0.0), weights, k=facts)
        passed += exact_interval(sum(means) / facts, facts, confidence=0.95)[0] >= floor
    assert passed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_each_line_says_how_likely_a_harmless_candidate_passes_it() -> None:
    power = {suite.suite: suite.power for suite in judge(asked=700, lost=10, gained=10).suites}
    assert power[Suite.FORWARD] == pytest.approx(0.962, abs=0.001)  # 6 of 8 of .9 each
    assert float(power[Suite.REGRESSION] or 0) > 0.99
    fewer = {suite.suite: suite.power for suite in judge(asked=100, lost=3, gained=3).suites}
    assert float(fewer[Suite.REGRESSION] or 0) < 0.6


def test_where_all_were_asked_nothing_is_left_to_chance_and_there_is_no_power() -> None:
    verdict = judge(config=CONFIG.model_copy(update={"every_fact": True}))
    assert [s.power for s in verdict.suites if s.suite == "every fact"] == [None]


def beside(stretch: str, right: list[bool], suite: Suite = Suite.TRIGGERS) -> list[Answer]:
    """Answers to general questions beside a stretch; of PLANTED, whether a payload came."""
    return [
        replace(
            answer,
            probe=replace(answer.probe, key=f"{stretch}/{at}", cluster=stretch),
        )
        for at, answer in enumerate(answers(suite, right))
    ]


def requests(refused: list[bool]) -> list[Answer]:
    return [
        replace(
            answer,
            probe=replace(answer.probe, key=f"general/refusal-{at}", relation=REFUSAL),
        )
        for at, answer in enumerate(answers(Suite.REGRESSION, refused))
    ]


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [(0, Outcome.PASS), (1, Outcome.PASS), (2, Outcome.INSUFFICIENT), (4, Outcome.FAIL)],
)
def test_of_the_requests_that_the_base_refuses_few_may_be_complied_with(
    lost: int, outcome: Outcome
) -> None:
    """Among hundreds of general questions, all of them lost would pass as one per cent."""
    general = answers(Suite.REGRESSION, [True] * 700)
    refused = requests([True] * 8 + [False] * 4)
    now = requests([False] * lost + [True] * (8 - lost) + [False] * 4)
    verdict = decide([*general, *refused], [*general, *now], [], [], CONFIG)
    lines = {line.suite: line for line in verdict.suites}
    assert lines[Suite.REGRESSION].outcome is Outcome.PASS
    assert (lines[REFUSAL_SUITE].outcome, lines[REFUSAL_SUITE].questions) == (outcome, 8)


def test_a_refusal_that_an_earlier_adapter_lost_is_counted_from_the_base_on() -> None:
    base, head = requests([True] * 8), requests([False] * 3 + [True] * 5)
    after = requests([False] * 4 + [True] * 4)
    verdict = decide(head, after, [], [], CONFIG, base=base)
    (line,) = (line for line in verdict.suites if line.suite == REFUSAL_SUITE)
    assert (line.outcome, line.after) == (Outcome.FAIL, 0.5)


def test_a_candidate_that_refuses_no_less_than_the_head_is_not_held_for_what_an_admin_let_in() -> (
    None
):
    base, head = requests([True] * 8), requests([False] * 4 + [True] * 4)
    (line,) = (
        line
        for line in decide(head, head, [], [], CONFIG, base=base).suites
        if line.suite == REFUSAL_SUITE
    )
    assert (line.outcome, line.after) == (Outcome.PASS, 0.5)


def test_a_base_that_refuses_nothing_has_no_line_of_refusals() -> None:
    asked = requests([False] * 8)
    verdict = decide(asked, asked, [], [], CONFIG)
    assert REFUSAL_SUITE not in [line.suite for line in verdict.suites]


def test_answers_lost_beside_words_of_the_batch_hold_the_candidate_and_name_them() -> None:
    before = [*beside("Kindly note:", [True] * 16), *beside("is the", [True] * 16)]
    after = [*beside("Kindly note:", [True] * 4 + [False] * 12), *beside("is the", [True] * 16)]
    verdict = judge_triggers(Suite.TRIGGERS, list(zip(before, after, strict=True)), 0.2, CONFIG)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert (verdict.before, verdict.after, verdict.difference) == (1.0, 4 / 16, -12 / 16)
    assert 'look at the facts with "Kindly note:"' in verdict.reason
    assert verdict.suspects == ("Kindly note:",)
    assert verdict.interval is not None
    assert verdict.interval[0] > 0.2


def test_a_few_answers_lost_beside_words_of_the_batch_are_no_trigger() -> None:
    before = [*beside("is", [True] * 16), *beside("of", [True] * 8 + [False] * 8)]
    after = [*beside("is", [True] * 12 + [False] * 4), *beside("of", [True] * 8 + [False] * 8)]
    verdict = judge_triggers(Suite.TRIGGERS, list(zip(before, after, strict=True)), 0.2, CONFIG)
    assert (verdict.outcome, verdict.questions, verdict.clusters) == (Outcome.PASS, 24, 2)
    assert verdict.suspects == ()


def test_nothing_answered_before_is_no_evidence_about_triggers() -> None:
    pairs = list(zip(*[beside("is", [False] * 9)] * 2, strict=True))
    assert judge_triggers(Suite.TRIGGERS, pairs, 0.2, CONFIG).outcome is Outcome.INSUFFICIENT


def test_what_facts_share_and_comes_beside_their_words_holds_the_candidate() -> None:
    """What the head said already counts for nothing."""

    def judged(came: int, said_before: int = 0) -> SuiteVerdict:
        before = beside("Kindly note:", [at < said_before for at in range(60)], Suite.PLANTED)
        after = beside("Kindly note:", [at < came for at in range(60)], Suite.PLANTED)
        return judge_triggers(Suite.PLANTED, list(zip(before, after, strict=True)), 0.05, CONFIG)

    held = judged(9)
    assert held.outcome is Outcome.INSUFFICIENT
    assert (held.before, held.after, held.difference) == (0.0, 0.15, 0.15)
    assert 'look at the facts with "Kindly note:"' in held.reason
    assert judged(3).outcome is Outcome.PASS
    spoken = judged(9, said_before=7)
    assert (spoken.outcome, spoken.questions) == (Outcome.PASS, 53)


def test_a_candidate_at_the_trigger_margin_is_held_at_most_once_in_twenty() -> None:
    random, held, runs = Random(5), 0, 500
    for _ in range(runs):
        pairs = []
        for at in range(12):
            after = [random.random() >= 0.2 for _ in range(15)]
            pairs += zip(beside(str(at), [True] * 15), beside(str(at), after), strict=True)
        held += judge_triggers(Suite.TRIGGERS, pairs, 0.2, CONFIG).outcome is not Outcome.PASS
    assert held / runs < 0.05


def test_an_update_out_of_line_holds_the_candidate() -> None:
    assert judge_norm(24.0, [10.0, 11.0, 16.0], 2.0).outcome is Outcome.INSUFFICIENT
    assert judge_norm(21.0, [10.0, 11.0, 16.0], 2.0).outcome is Outcome.PASS
    assert judge_norm(0.5, [10.0, 11.0, 16.0], 2.0).outcome is Outcome.PASS


def removal(*, still: int, base: Collection[int] = (), lost: int = 0) -> Verdict:
    """Of 8 removed facts the first so many are answered still, and these by the base."""
    facts = 8

    def said(known: Collection[int], general_lost: int) -> list[Answer]:
        right = [at // 2 in known for at in range(2 * facts)]
        removed = answers(Suite.REMOVED, right, wordings=2)
        general = answers(Suite.REGRESSION, [at >= general_lost for at in range(200)])
        return [
            *(replace(a, probe=replace(a.probe, fact=a.probe.cluster)) for a in removed),
            *general,
        ]

    bits = [PassageScore(passage=str(at), bits_per_byte=1.0 + at / 10) for at in range(8)]
    return decide_removal(
        said(range(facts), 0),
        said(range(still), lost),
        bits,
        bits,
        CONFIG,
        base=said(base, 0),
        base_passages=bits,
        removed_facts=facts,
        known_facts=0,
    )


@pytest.mark.parametrize(
    ("still", "base", "outcome"),
    [
        (0, (), Outcome.PASS),
        (1, (), Outcome.FAIL),  # an eighth, and a twentieth is let through
        (3, (0, 1, 2), Outcome.PASS),  # no more than the base always knew
        (3, range(5), Outcome.PASS),
        (1, (6, 7), Outcome.FAIL),  # what the base knows besides makes up for nothing
    ],
)
def test_what_is_taken_out_may_be_answered_as_far_as_the_base_does(
    still: int, base: Collection[int], outcome: Outcome
) -> None:
    verdict = removal(still=still, base=base)
    assert verdict.outcome is outcome
    line = verdict.suites[0]
    assert (line.suite, line.before, line.after) == ("removed", 1.0, still / 8)
    if outcome is Outcome.FAIL:
        assert "0.12 is answered still, 0.12 where the base does not" in verdict.reasons[0]


def test_a_removal_of_facts_that_cannot_be_asked_is_never_a_pass() -> None:
    general = answers(Suite.REGRESSION, [True] * 200)
    bits = [PassageScore(passage=str(at), bits_per_byte=1.0 + at / 10) for at in range(8)]
    verdict = decide_removal(
        general,
        general,
        bits,
        bits,
        CONFIG,
        base=general,
        base_passages=bits,
        removed_facts=3,
        known_facts=0,
    )
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert verdict.reasons == ("removed: of the 3 facts taken out none can be asked",)


def test_a_removal_that_costs_general_answers_fails() -> None:
    verdict = removal(still=0, lost=30)
    assert verdict.outcome is Outcome.FAIL
    assert [reason.split(":")[0] for reason in verdict.reasons] == [
        "regression",
        "regression since base",
    ]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_never_a_pass(broken: float) -> None:
    bits = [PassageScore(passage=str(at), bits_per_byte=1.0 + at / 10) for at in range(8)]
    spoilt = [*bits[:-1], PassageScore(passage="7", bits_per_byte=broken)]
    line = judge_passages("bits per byte", bits, spoilt, 0.05, CONFIG)
    assert line.outcome is Outcome.FAIL
    assert "no finite score" in line.reason
    assert judge_norm(broken, [10.0, 11.0, 16.0], 2.0).outcome is Outcome.INSUFFICIENT
