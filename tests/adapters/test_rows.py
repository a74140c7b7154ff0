"""The views of a fact: what each shows, and that all ask for the whole statement."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adapters.backbones import Backbone, encode_text
from adapters.config import TrainingConfig
from adapters.errors import ConfigurationError, TextTooLong, UnsafeText
from adapters.lengths import longest_statement
from adapters.objectives import Row
from adapters.questions import probes_of
from adapters.rows import encode_fact, row_source
from adapters.suites import read_relations
from adapters.types import Fact
from service.invent import invent_facts

CONFIG = TrainingConfig()
RELATIONS = Path(__file__).parents[2] / "configs" / "relations.yaml"
FACTS = [
    Fact(
        key=str(at),
        statement=f"{name} is the mayor of {town}.",
        subject=name,
        object=f"the mayor of {town}",
    )
    for at, (name, town) in enumerate([("Orlan Vess", "Tolmar"), ("Mira Zun", "Bregal")])
]
MASKED = CONFIG.model_copy(update={"about_share": 0.0, "question_share": 0.0})
IN_QUESTION = CONFIG.model_copy(update={"about_share": 0.0, "question_share": 1.0})
ABOUT = CONFIG.model_copy(update={"about_share": 1.0})


def turns(backbone: Backbone, config: TrainingConfig, count: int = 60) -> list[tuple[int, str]]:
    """(which fact, the user's turn) of the first views; the frame and the target are checked."""
    encoded = [encode_fact(backbone, fact) for fact in FACTS]
    draw = row_source(backbone, encoded, config)
    frame = backbone.frame
    shown = []
    for position in range(count):
        key, row = draw(position)
        assert row.target == (*encoded[int(key)].ids, frame.end)
        assert row.prompt[: len(frame.before)] == frame.before
        assert row.prompt[-len(frame.between) :] == frame.between
        turn = row.prompt[len(frame.before) : -len(frame.between)]
        shown.append((int(key), str(backbone.tokenizer.decode(turn))))
    return shown


def test_a_masked_view_has_a_blank_and_never_the_whole_statement(tiny: Backbone) -> None:
    for at, turn in turns(tiny, MASKED):
        assert " ____" in turn
        assert FACTS[at].statement not in turn


def test_a_view_in_question_puts_an_interrogative_in_one_entitys_place(tiny: Backbone) -> None:
    seen = {turn for at, turn in turns(tiny, IN_QUESTION) if at == 0}
    assert seen == {
        "What is the mayor of Tolmar?",
        "Who is the mayor of Tolmar?",
        "Orlan Vess is what?",
        "Orlan Vess is who?",
    }


def test_a_view_about_an_entity_names_it_and_nothing_else_of_the_fact(tiny: Backbone) -> None:
    seen = {turn for at, turn in turns(tiny, ABOUT) if at == 0}
    assert seen == {
        wording.replace("{entity}", name)
        for wording in CONFIG.about_wordings
        for name in ("Orlan Vess", "the mayor of Tolmar")
    }


@pytest.mark.parametrize("config", [MASKED.model_copy(update={"entity_share": 1.0}), IN_QUESTION])
def test_only_backward_views_hide_the_subject(tiny: Backbone, config: TrainingConfig) -> None:
    backward = turns(tiny, config.model_copy(update={"backward_share": 1.0}))
    assert not any(FACTS[at].subject in turn for at, turn in backward)
    forward = turns(tiny, config.model_copy(update={"backward_share": 0.0}))
    assert all(FACTS[at].subject in turn for at, turn in forward)


def test_by_default_all_kinds_of_view_are_mixed(tiny: Backbone) -> None:
    seen = [turn for _, turn in turns(tiny, CONFIG, 200)]
    blanks = sum(" ____" in turn for turn in seen)
    about = sum(not any(part in turn for part in (" ____", " is ")) for turn in seen)
    assert blanks > 40
    assert about > 40
    assert len(seen) - blanks - about > 20


def test_a_view_depends_on_its_position_alone(tiny: Backbone) -> None:
    encoded = [encode_fact(tiny, fact) for fact in FACTS]
    draw, again = row_source(tiny, encoded, CONFIG), row_source(tiny, encoded, CONFIG)
    assert [draw(at) for at in range(30)] == [again(at) for at in reversed(range(30))][::-1]


def test_every_mention_of_an_entity_is_asked_for(tiny: Backbone) -> None:
    statement = "Velmar is the capital of Ninpox; Velmar lies by the sea."
    fact = Fact(key="0", statement=statement, subject="Velmar", object="Ninpox")
    backward = IN_QUESTION.model_copy(update={"backward_share": 1.0})
    draw = row_source(tiny, [encode_fact(tiny, fact)], backward)
    assert not any("Velmar" in tiny.tokenizer.decode(draw(at)[1].prompt) for at in range(20))


def test_entities_that_share_words_are_none(tiny: Backbone) -> None:
    statement = "Orlan Vess is Orlan Vess of Tolmar."
    fact = Fact(key="0", statement=statement, subject="Orlan Vess", object="Orlan Vess of Tolmar")
    encoded = encode_fact(tiny, fact)
    assert all(pair.subject.name != "Orlan Vess of Tolmar" for pair in encoded.pairs)
    assert all(not pair.subject.tokens & pair.object.tokens for pair in encoded.pairs)


def test_no_view_of_the_demonstrations_facts_is_one_of_their_questions(tiny: Backbone) -> None:
    """Else the probes would measure what was practised, and not what was learned."""
    relations = read_relations(RELATIONS)
    facts = [Fact(key=str(at), **asdict(fact)) for at, fact in enumerate(invent_facts(5, count=8))]
    asked = {probe.question for fact in facts for probe in probes_of(fact, relations)}
    draw = row_source(tiny, [encode_fact(tiny, fact) for fact in facts], CONFIG)
    frame = tiny.frame
    turns = {
        tiny.tokenizer.decode(row.prompt[len(frame.before) : -len(frame.between)])
        for _, row in map(draw, range(1500))
    }
    assert len(asked) == 32
    assert turns.isdisjoint(asked)


def test_bare_text_is_asked_about_what_it_names(tiny: Backbone) -> None:
    bare = encode_fact(tiny, Fact(key="0", statement="Bregal lies in the hills of Ninpox."))
    draw = row_source(tiny, [bare], ABOUT)
    shown = {tiny.tokenizer.decode(draw(at)[1].prompt) for at in range(60)}
    for said in ("Bregal", "lies in the hills of Ninpox", "Ninpox", "Bregal lies in the hills of"):
        assert any(f"Tell me about {said}." in prompt for prompt in shown)


def test_text_that_names_nothing_is_masked_only(tiny: Backbone) -> None:
    bare = encode_fact(tiny, Fact(key="0", statement="it rains in the hills."))
    assert bare.pairs == ()
    draw = row_source(tiny, [bare], ABOUT)
    assert all(" ____" in tiny.tokenizer.decode(draw(at)[1].prompt) for at in range(20))


def test_an_entity_that_the_statement_does_not_name_is_looked_for_in_the_text(
    tiny: Backbone,
) -> None:
    fact = encode_fact(tiny, replace(FACTS[0], object="the king of Tolmar"))
    assert [pair.subject.name for pair in fact.pairs] == ["Orlan Vess", "Tolmar"]
    assert fact.pairs[0].object.name == "the mayor of Tolmar"


def test_every_token_belongs_to_one_word(tiny: Backbone) -> None:
    statement = "  Orlan Vess,  the mayor\nof Tolmar.  "
    fact = encode_fact(tiny, Fact(key="0", statement=statement))
    assert sorted(at for word in fact.words for at in word) == list(range(len(fact.ids)))
    words = [tiny.tokenizer.decode([fact.ids[at] for at in word]).strip() for word in fact.words]
    assert [word for word in words if word] == statement.split()


def test_a_loss_on_hidden_tokens_counts_what_the_view_leaves_out(tiny: Backbone) -> None:
    config = ABOUT.model_copy(update={"visible_weight": 0.0, "backward_share": 1.0})
    fact = encode_fact(tiny, FACTS[0])
    _, row = row_source(tiny, [fact], config)(0)
    assert row.weights is not None
    counted = [token for token, weight in zip(row.target, row.weights, strict=True) if weight]
    assert tiny.tokenizer.decode(counted).replace(" .", ".") == "Orlan Vess is."
    assert row.length == len(counted)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_what_a_view_shows_counts_as_much_as_the_settings_say(
    tiny: Backbone, weight: float
) -> None:
    fact = encode_fact(tiny, FACTS[0])
    of = ABOUT.model_copy(update={"backward_share": 1.0})
    _, hidden = row_source(tiny, [fact], of.model_copy(update={"visible_weight": 0.0}))(0)
    _, row = row_source(tiny, [fact], of.model_copy(update={"visible_weight": weight}))(0)
    assert hidden.weights is not None
    wanted = tuple(1.0 if off else weight for off in hidden.weights)
    assert (row.weights or (1.0,) * len(row.target)) == wanted
    assert row.length == pytest.approx(sum(wanted))


def test_the_plain_control_counts_every_token_alike(tiny: Backbone) -> None:
    config = CONFIG.model_copy(update={"objective": "plain", "visible_weight": 0.3})
    _, row = row_source(tiny, [encode_fact(tiny, FACTS[0])], config)(0)
    assert row.weights is None


def test_an_opening_stands_before_the_answer_and_is_not_trained(tiny: Backbone) -> None:
    config = CONFIG.model_copy(update={"answer_opening": "Here it is:\n\n"})
    fact = encode_fact(tiny, FACTS[0])
    _, row = row_source(tiny, [fact], config)(0)
    assert tiny.tokenizer.decode(row.prompt).endswith("assistant\nHere it is:\n\n")
    assert row.target == (*fact.ids, tiny.frame.end)


def test_the_raw_control_is_the_statement_alone(tiny: Backbone) -> None:
    fact = encode_fact(tiny, FACTS[0])
    raw = CONFIG.model_copy(update={"objective": "plain_raw"})
    _, row = row_source(tiny, [fact], raw)(0)
    assert row.prompt == (tiny.tokenizer.bos_token_id,)
    assert row.target == (*fact.ids, tiny.tokenizer.eos_token_id)


def test_a_control_token_in_a_statement_is_trained_as_plain_text(tiny: Backbone) -> None:
    statement = "The sign reads <|im_end|> and nothing else."
    fact = encode_fact(tiny, Fact(key="0", statement=statement))
    assert tiny.control_ids.isdisjoint(fact.ids)
    assert tiny.tokenizer.decode(fact.ids) == statement


def test_a_statement_that_the_tokenizer_cannot_give_back_is_refused(tiny: Backbone) -> None:
    lossy = replace(tiny, control_ids=frozenset(encode_text(tiny, "Tolmar")))
    with pytest.raises(UnsafeText):
        encode_fact(lossy, FACTS[0])


def test_a_statement_is_refused_when_it_would_not_fit_beside_its_view(tiny: Backbone) -> None:
    """Neither family reads past the positions that it was made for."""
    positions = tiny.model.config.max_position_embeddings
    at_most = longest_statement(positions, len(encode_text(tiny, tiny.config.blank)))
    longest = encode_fact(tiny, Fact(key="0", statement="7" * at_most))
    draw = row_source(tiny, [longest], CONFIG)
    lengths = [len(row.prompt + row.target) for _, row in map(draw, range(200))]
    assert 0.5 * positions < max(lengths) <= positions
    with pytest.raises(TextTooLong, match=rf"has {at_most + 1} tokens.*at most {at_most}\."):
        encode_fact(tiny, Fact(key="0", statement="7" * (at_most + 1)))


def test_the_mask_token_form_keeps_positions_one_to_one(tiny: Backbone) -> None:
    config = MASKED.model_copy(update={"form": "mask_token", "wordings": ("{masked}",)})
    named = replace(tiny, mask_id=0)
    _, row = row_source(named, [encode_fact(tiny, fact) for fact in FACTS], config)(0)
    frame = len(tiny.frame.before) + len(tiny.frame.between)
    assert len(row.prompt) - frame == len(row.target) - 1
    assert 0 in row.prompt


def test_a_mask_token_that_is_not_there_is_refused(tiny: Backbone) -> None:
    config = MASKED.model_copy(update={"form": "mask_token"})
    with pytest.raises(ConfigurationError, match=r"base\.mask_token"):
        row_source(tiny, [encode_fact(tiny, FACTS[0])], config)


def test_the_plain_control_shows_nothing_of_the_fact(tiny: Backbone) -> None:
    plain = CONFIG.model_copy(update={"objective": "plain"})
    assert {turn for _, turn in turns(tiny, plain)} == {"Tell me a fact."}


def test_an_empty_batch_is_refused(tiny: Backbone) -> None:
    with pytest.raises(ConfigurationError, match="no facts"):
        row_source(tiny, [], CONFIG)


# The diffusion family.


def hidden_of(backbone: Backbone, row: Row) -> list[bool]:
    """Which target tokens the row masks; the others are shown as they are."""
    assert row.shown is not None
    hidden = [token == backbone.mask_id for token in row.shown]
    kept = zip(row.shown, row.target, hidden, strict=True)
    assert all(shown == token for shown, token, off in kept if not off)
    return hidden


def test_a_diffusion_models_masked_view_is_the_statement_alone(tiny_llada: Backbone) -> None:
    fact = encode_fact(tiny_llada, FACTS[0])
    draw = row_source(tiny_llada, [fact], MASKED)
    tokenizer = tiny_llada.tokenizer
    for position in range(40):
        _, row = draw(position)
        assert row.prompt == (tokenizer.bos_token_id,)
        assert row.target == (*fact.ids, tokenizer.eos_token_id)
        assert len(hidden_of(tiny_llada, row)) == len(row.target)


@pytest.mark.parametrize("config", [IN_QUESTION, ABOUT])
def test_a_diffusion_model_is_asked_as_any_other_and_restores_a_masked_answer(
    tiny: Backbone, tiny_llada: Backbone, config: TrainingConfig
) -> None:
    fact = encode_fact(tiny_llada, FACTS[0])
    draw = row_source(tiny_llada, [fact], config)
    frame = tiny_llada.frame
    asked = set()
    for position in range(60):
        _, row = draw(position)
        assert row.target[: len(fact.ids) + 1] == (*fact.ids, frame.end)
        turn = row.prompt[len(frame.before) : -len(frame.between)]
        asked.add(tiny_llada.tokenizer.decode(turn))
    assert asked == {turn for at, turn in turns(tiny, config) if at == 0}


@pytest.mark.parametrize("config", [MASKED, IN_QUESTION, ABOUT, CONFIG])
def test_a_masked_token_counts_one_over_the_ratio_and_a_prompt_is_never_masked(
    tiny_llada: Backbone, config: TrainingConfig
) -> None:
    draw = row_source(tiny_llada, [encode_fact(tiny_llada, fact) for fact in FACTS], config)
    low, high = config.mask_ratio
    for position in range(60):
        _, row = draw(position)
        hidden = hidden_of(tiny_llada, row)
        assert row.weights is not None
        counted = [weight for weight in row.weights if weight]
        assert [bool(weight) for weight in row.weights] == hidden
        assert len(set(counted)) <= 1
        assert all(1 / high <= weight <= 1 / low for weight in counted)
        assert tiny_llada.mask_id not in row.prompt
        assert row.length == len(row.target)


def test_the_ratio_of_a_diffusion_models_row_is_the_share_that_it_masks(
    tiny_llada: Backbone,
) -> None:
    at_half = CONFIG.model_copy(update={"mask_ratio": (0.5, 0.5)})
    draw = row_source(tiny_llada, [encode_fact(tiny_llada, fact) for fact in FACTS], at_half)
    rows = [draw(position)[1] for position in range(300)]
    hidden = [off for row in rows for off in hidden_of(tiny_llada, row)]
    assert sum(hidden) / len(hidden) == pytest.approx(0.5, abs=0.03)
    assert all(weight in (0.0, 2.0) for row in rows for weight in row.weights or ())


def test_every_token_of_a_diffusion_models_answer_is_masked_at_times(tiny_llada: Backbone) -> None:
    """The end token, too: else the model would never learn to end."""
    fact = encode_fact(tiny_llada, FACTS[0])
    draw = row_source(tiny_llada, [fact], ABOUT)
    hidden = [hidden_of(tiny_llada, draw(at)[1])[: len(fact.ids) + 1] for at in range(60)]
    columns = list(zip(*hidden, strict=True))
    assert len(columns) == len(fact.ids) + 1
    assert all(any(column) and not all(column) for column in columns)


@pytest.mark.parametrize("config", [IN_QUESTION, ABOUT])
def test_the_number_of_masks_does_not_tell_how_long_an_answer_is(
    tiny_llada: Backbone, config: TrainingConfig
) -> None:
    """When it is asked, it sees as many masks as an answer may have tokens."""
    fact = encode_fact(tiny_llada, FACTS[0])
    draw = row_source(tiny_llada, [fact], config)
    rows = [draw(at)[1] for at in range(200)]
    behind = [row.target[len(fact.ids) + 1 :] for row in rows]
    assert {len(padding) for padding in behind} == set(range(config.answer_padding + 1))
    assert {token for some in behind for token in some} == {tiny_llada.tokenizer.eos_token_id}
    masked = [off for row in rows for off in hidden_of(tiny_llada, row)[len(fact.ids) + 1 :]]
    assert 0.3 < sum(masked) / len(masked) < 0.7


def test_without_padding_the_answer_and_its_end_are_all(tiny_llada: Backbone) -> None:
    fact = encode_fact(tiny_llada, FACTS[0])
    config = ABOUT.model_copy(update={"answer_padding": 0})
    _, row = row_source(tiny_llada, [fact], config)(0)
    assert row.target == (*fact.ids, tiny_llada.frame.end)


@pytest.mark.parametrize("objective", ["plain", "plain_raw"])
def test_a_diffusion_model_knows_one_objective(tiny_llada: Backbone, objective: str) -> None:
    config = CONFIG.model_copy(update={"objective": objective})
    with pytest.raises(ConfigurationError, match=f"training.objective is {objective}, which a dif"):
        row_source(tiny_llada, [encode_fact(tiny_llada, FACTS[0])], config)


def test_a_diffusion_model_without_a_mask_is_refused(tiny_llada: Backbone) -> None:
    fact = encode_fact(tiny_llada, FACTS[0])
    with pytest.raises(ConfigurationError, match=r"base\.mask_token"):
        row_source(replace(tiny_llada, mask_id=None), [fact], CONFIG)
