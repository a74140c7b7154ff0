"""The training rows of a batch: every row is one view of one fact, and asks for the whole of it.

Three kinds of view, mixed as the settings say, so that a fact is reached from wherever a question
may come:

* masked: the statement with hidden parts, in one of several wordings (arXiv 2510.09885);
* in question: "what" or "who" in an entity's place, "Velmar is the capital of what?";
* about: one entity's name and nothing else of the fact, "Tell me about Velmar."

A diffusion model restores masked text by nature, so its masked view is the paper's raw one: the
statement alone. In the other two it is shown the question and restores a masked answer. When it is
asked, more masks stand there than the answer has tokens, so end tokens are put behind it (LLaDA's
fine-tuning does, arXiv 2502.09992).

A view is a pure function of the seed and its position in the run: neither the size of a step nor
the number of processes nor the point at which a training was resumed changes it.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from adapters.backbones import Backbone, encode_text, entity_tokens, token_offsets
from adapters.config import TrainingConfig
from adapters.errors import ConfigurationError, TextTooLong
from adapters.lengths import longest_statement
from adapters.masking import (
    EncodedFact,
    Entity,
    Pair,
    collapse,
    draw_asked,
    draw_hidden,
    fact_at,
    hide_units,
    random_for,
    substitute,
)
from adapters.names import find_pairs
from adapters.objectives import Row, diffusion_row
from adapters.types import Fact, Family
from adapters.wording import as_question, replace_name

PLAIN_REQUEST = "Tell me a fact."  #: the paper's chat form of plain training


Views = Callable[[int], tuple[str, Row]]  #: position in the run -> key of the fact, row


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a row shows of a fact, and which tokens of the statement that leaves to be found."""

    turn: Sequence[int]  #: the user's words
    hidden: Sequence[bool]


DrawView = Callable[[Random, EncodedFact], View]


def encode_fact(backbone: Backbone, fact: Fact) -> EncodedFact:
    """The statement as plain ids, with the entities that the fact, or else its text, names.

    Raises UnsafeText when the statement or a name cannot be encoded as plain tokens, TextTooLong
    when a view and the statement would not fit the model's positions together.
    """
    ids = tuple(encode_text(backbone, fact.statement))
    blank = len(encode_text(backbone, backbone.config.blank))
    at_most = longest_statement(backbone.model.config.max_position_embeddings, blank)
    if len(ids) > at_most:
        raise TextTooLong(
            f"The statement has {len(ids)} tokens; {backbone.config.name} can learn one of at most "
            f"{at_most}. Send it in parts."
        )
    known = _pair(backbone, fact.statement, fact.subject, fact.object)
    found = (_pair(backbone, fact.statement, *names) for names in find_pairs(fact.statement))
    return EncodedFact(
        key=fact.key,
        statement=fact.statement,
        ids=ids,
        words=_words(backbone, fact.statement),
        pairs=(known,) if known else tuple(pair for pair in found if pair),
    )


def _pair(
    backbone: Backbone, statement: str, subject: str | None, object_: str | None
) -> Pair | None:
    """None where either is not in the statement, or neither could be hidden without the other."""
    asked, said = _entity(backbone, statement, subject), _entity(backbone, statement, object_)
    if asked is None or said is None or asked.tokens & said.tokens:
        return None
    return Pair(subject=asked, object=said)


def _entity(backbone: Backbone, statement: str, name: str | None) -> Entity | None:
    found = entity_tokens(backbone, statement, name)
    if found is None:
        return None
    as_written, tokens = found
    encode_text(backbone, as_written)  # raises here, where only this fact is at stake
    return Entity(name=as_written, tokens=tokens)


def _words(backbone: Backbone, statement: str) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word; a token belongs to the word in which it ends."""
    ends = [found.end() for found in re.finditer(r"\S+", statement)]
    words: dict[int, list[int]] = {}
    for at, (_, end) in enumerate(token_offsets(backbone, statement)):
        words.setdefault(bisect_left(ends, end), []).append(at)
    return tuple(map(tuple, words.values()))


def row_source(
    backbone: Backbone, facts: Sequence[EncodedFact], config: TrainingConfig, *stream: str
) -> Views:
    """The views of a batch, or of a plain control the one row that each fact has.

    Rows of another stream are drawn independently.

    Raises ConfigurationError for an empty batch, a mask token that the vocabulary has not, or an
    objective that the base's family does not know.
    """
    if not facts:
        raise ConfigurationError("There is nothing to train on: the batch has no facts.")
    make = SOURCES[backbone.family](backbone, config)

    def draw(position: int) -> tuple[str, Row]:
        fact = fact_at(facts, config.seed, *stream, position=position)
        return fact.key, make(random_for(config.seed, *stream, position), fact)

    return draw


MakeRow = Callable[[Random, EncodedFact], Row]


def _autoregressive(backbone: Backbone, config: TrainingConfig) -> MakeRow:
    frame = backbone.frame
    if config.objective == "plain_raw":
        return lambda _, fact: _raw(backbone, fact)
    view = _plain(backbone) if config.objective == "plain" else _mixed(backbone, config)
    opening = encode_text(backbone, config.answer_opening)
    visible_weight = config.visible_weight if config.objective == "masked" else 1.0

    def make(rng: Random, fact: EncodedFact) -> Row:
        seen = view(rng, fact)
        weights = tuple(1.0 if off else visible_weight for off in (*seen.hidden, False))
        return Row(
            prompt=(*frame.before, *seen.turn, *frame.between, *opening),
            target=(*fact.ids, frame.end),
            weights=weights if visible_weight < 1 else None,
        )

    return make


def _raw(backbone: Backbone, fact: EncodedFact) -> Row:
    """The statement alone, between the tokens that begin and end a text."""
    tokenizer = backbone.tokenizer
    begin = tokenizer.bos_token_id
    end = tokenizer.eos_token_id
    return Row(
        prompt=(backbone.frame.before[0] if begin is None else begin,),
        target=(*fact.ids, backbone.frame.end if end is None else end),
    )


def _diffusion(backbone: Backbone, config: TrainingConfig) -> MakeRow:
    if config.objective != "masked":
        raise ConfigurationError(
            f"training.objective is {config.objective}, which a diffusion base cannot be trained "
            "with; masked is its only one."
        )
    mask = backbone.mask_id
    if mask is None:
        raise ConfigurationError("A diffusion base needs base.mask_token.")
    frame = backbone.frame
    eos: Any = backbone.tokenizer.eos_token_id
    padding = frame.end if eos is None else eos
    asked = _asked(backbone, config)

    def make(rng: Random, fact: EncodedFact) -> Row:
        seen = asked(rng, fact)
        if seen is None:
            plain = _raw(backbone, fact)
            prompt, target = plain.prompt, plain.target
        else:
            prompt = (*frame.before, *seen.turn, *frame.between)
            target = (*fact.ids, frame.end, *(padding,) * rng.randint(0, config.answer_padding))
        ratio = rng.uniform(*config.mask_ratio)
        hidden = hide_units(rng, [(at,) for at in range(len(target))], ratio=ratio)
        return diffusion_row(prompt, target, hidden, ratio=ratio, mask=mask)

    return make


SOURCES: dict[Family, Callable[[Backbone, TrainingConfig], MakeRow]] = {
    Family.AUTOREGRESSIVE: _autoregressive,
    Family.DIFFUSION: _diffusion,
}


def _plain(backbone: Backbone) -> DrawView:
    request = encode_text(backbone, PLAIN_REQUEST)
    return lambda _, fact: View(turn=request, hidden=(True,) * len(fact.ids))


def _mixed(backbone: Backbone, config: TrainingConfig) -> DrawView:
    masked, asked = _masked(backbone, config), _asked(backbone, config)
    return lambda rng, fact: asked(rng, fact) or masked(rng, fact)


def _asked(
    backbone: Backbone, config: TrainingConfig
) -> Callable[[Random, EncodedFact], View | None]:
    """A view about an entity, or one in question, as often as the settings say; else None."""

    def view(rng: Random, fact: EncodedFact) -> View | None:
        if not fact.pairs:
            return None
        if rng.random() < config.about_share:
            return _about(backbone, config, rng, fact)
        if rng.random() < config.question_share:
            return _in_question(backbone, config, rng, fact)
        return None

    return view


def _masked(backbone: Backbone, config: TrainingConfig) -> DrawView:
    show = _shower(backbone, config)
    wordings = []
    for wording in config.wordings:
        lead, _, tail = wording.partition("{masked}")
        wordings.append((encode_text(backbone, lead), encode_text(backbone, tail)))

    def view(rng: Random, fact: EncodedFact) -> View:
        hidden = draw_hidden(
            rng,
            fact,
            entity_share=config.entity_share,
            most_of_rest=config.most_of_rest,
            backward_share=config.backward_share,
            word_share=config.word_share,
            ratio_range=config.mask_ratio,
        )
        lead, tail = rng.choice(wordings)
        return View(turn=[*lead, *show(fact.ids, hidden), *tail], hidden=hidden)

    return view


def _shower(
    backbone: Backbone, config: TrainingConfig
) -> Callable[[Sequence[int], Sequence[bool]], list[int]]:
    """How hidden tokens look in the prompt, as the configuration says."""
    if config.form == "cloze":
        blank = encode_text(backbone, backbone.config.blank)
        return lambda ids, hidden: collapse(ids, hidden, blank)
    mask = backbone.mask_id
    if mask is None:
        raise ConfigurationError(
            f"training.form is mask_token, but base.mask_token ({backbone.config.mask_token!r}) is "
            f"no token of {backbone.config.name}; name one reserved token of its vocabulary."
        )
    return lambda ids, hidden: substitute(ids, hidden, mask)


def _in_question(
    backbone: Backbone, config: TrainingConfig, rng: Random, fact: EncodedFact
) -> View:
    """An interrogative is a blank, too, and one that questions are made of.

    It stands for one whole entity, and everything else is shown.
    """
    asked_for, _ = draw_asked(rng, fact, backward_share=config.backward_share)
    asked = replace_name(fact.statement, asked_for.name, rng.choice(("what", "who")))
    return View(
        turn=encode_text(backbone, as_question(asked)),
        hidden=_only(asked_for, fact),
    )


def _about(backbone: Backbone, config: TrainingConfig, rng: Random, fact: EncodedFact) -> View:
    _, named = draw_asked(rng, fact, backward_share=config.backward_share)
    wording = rng.choice(config.about_wordings)
    return View(
        turn=encode_text(backbone, wording.replace("{entity}", named.name)),
        hidden=[not shown for shown in _only(named, fact)],
    )


def _only(entity: Entity, fact: EncodedFact) -> list[bool]:
    return [at in entity.tokens for at in range(len(fact.ids))]
