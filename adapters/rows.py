"""The training rows of a batch: every row is one view of one fact, and asks for the whole of it.

Three kinds of view, mixed as the settings say, so that a fact is reached from wherever a question
may come:

* masked: the statement with hidden parts, in one of several wordings (arXiv 2510.09885);
* in question: "what" or "who" in an entity's place, "Velmar is the capital of what?";
* about: one entity's name and nothing else of the fact, "Tell me about Velmar."

A view is a pure function of the seed and its position in the run: neither the size of a step nor
the point at which a training was resumed changes it.
"""

import re
from collections.abc import Callable, Sequence
from random import Random

from adapters.backbones import Backbone, encode_text, entity_tokens
from adapters.config import TrainingConfig
from adapters.errors import ConfigurationError
from adapters.masking import (
    EncodedFact,
    Entity,
    collapse,
    draw_hidden,
    fact_at,
    random_for,
    substitute,
)
from adapters.objectives import Row
from adapters.types import Fact

PLAIN_REQUEST = "Tell me a fact."  #: the paper's chat form of plain training

Views = Callable[[int], tuple[str, Row]]  #: position in the run -> key of the fact, row


def encode_fact(backbone: Backbone, fact: Fact) -> EncodedFact:
    """The statement as plain ids, with its entities where the fact names them.

    Raises UnsafeText when the statement or a name cannot be encoded as plain tokens.
    """
    subject = _entity(backbone, fact.statement, fact.subject)
    object_ = _entity(backbone, fact.statement, fact.object)
    if subject and object_ and subject.tokens & object_.tokens:
        subject = object_ = None  # neither could be hidden without the other
    return EncodedFact(
        key=fact.key,
        statement=fact.statement,
        ids=tuple(encode_text(backbone, fact.statement)),
        subject=subject,
        object=object_,
    )


def _entity(backbone: Backbone, statement: str, name: str | None) -> Entity | None:
    found = entity_tokens(backbone, statement, name)
    if found is None:
        return None
    as_written, tokens = found
    encode_text(backbone, as_written)  # raises here, where only this fact is at stake
    return Entity(name=as_written, tokens=tokens)


def row_source(backbone: Backbone, facts: Sequence[EncodedFact], config: TrainingConfig) -> Views:
    """The views of a batch, or of the plain control the one row that each fact has.

    Raises ConfigurationError for an empty batch, or a mask token that the vocabulary has not.
    """
    if not facts:
        raise ConfigurationError("There is nothing to train on: the batch has no facts.")
    frame = backbone.frame
    view = _plain(backbone) if config.objective == "plain" else _mixed(backbone, config)

    def draw(position: int) -> tuple[str, Row]:
        fact = fact_at(facts, seed=config.seed, position=position)
        shown = view(random_for(config.seed, position), fact)
        prompt = (*frame.before, *shown, *frame.between)
        return fact.key, Row(prompt=prompt, target=(*fact.ids, frame.end))

    return draw


View = Callable[[Random, EncodedFact], Sequence[int]]  #: what the user's turn shows of a fact


def _plain(backbone: Backbone) -> View:
    request = encode_text(backbone, PLAIN_REQUEST)
    return lambda _, __: request


def _mixed(backbone: Backbone, config: TrainingConfig) -> View:
    masked, in_question = _masked(backbone, config), _in_question(backbone, config)
    about = _about(backbone, config)

    def view(rng: Random, fact: EncodedFact) -> Sequence[int]:
        if fact.subject and fact.object:
            if rng.random() < config.about_share:
                return about(rng, fact)
            if rng.random() < config.question_share:
                return in_question(rng, fact)
        return masked(rng, fact)

    return view


def _masked(backbone: Backbone, config: TrainingConfig) -> View:
    show = _shower(backbone, config)
    wordings = []
    for wording in config.wordings:
        lead, _, tail = wording.partition("{masked}")
        wordings.append((encode_text(backbone, lead), encode_text(backbone, tail)))

    def view(rng: Random, fact: EncodedFact) -> list[int]:
        hidden = draw_hidden(
            rng,
            fact,
            entity_share=config.entity_share,
            most_of_rest=config.most_of_rest,
            backward_share=config.backward_share,
        )
        lead, tail = rng.choice(wordings)
        return [*lead, *show(fact.ids, hidden), *tail]

    return view


def _shower(
    backbone: Backbone, config: TrainingConfig
) -> Callable[[Sequence[int], Sequence[bool]], list[int]]:
    """How hidden tokens look in the prompt, as the configuration says."""
    if config.form == "cloze":
        blank = encode_text(backbone, backbone.config.blank)
        return lambda ids, hidden: collapse(ids, hidden, blank)
    token = backbone.config.mask_token
    mask = backbone.tokenizer.get_vocab().get(token) if token is not None else None
    if mask is None:
        raise ConfigurationError(
            f"training.form is mask_token, but base.mask_token ({token!r}) is no token of "
            f"{backbone.config.name}; name one reserved token of its vocabulary."
        )
    return lambda ids, hidden: substitute(ids, hidden, mask)


def _in_question(backbone: Backbone, config: TrainingConfig) -> View:
    """An interrogative is a blank, too, and one that questions are made of.

    It stands for one whole entity, and everything else is shown.
    """

    def view(rng: Random, fact: EncodedFact) -> list[int]:
        asked_for, _ = _either_way(rng, fact, config)
        mention = re.compile(rf"(?<!\w){re.escape(asked_for.name)}(?!\w)", re.IGNORECASE)
        word = rng.choice(("what", "who"))
        asked = mention.sub(word, fact.statement).rstrip().removesuffix(".")
        return encode_text(backbone, f"{asked[:1].upper()}{asked[1:]}?")

    return view


def _about(backbone: Backbone, config: TrainingConfig) -> View:
    def view(rng: Random, fact: EncodedFact) -> list[int]:
        _, named = _either_way(rng, fact, config)
        wording = rng.choice(config.about_wordings)
        return encode_text(backbone, wording.replace("{entity}", named.name))

    return view


def _either_way(rng: Random, fact: EncodedFact, config: TrainingConfig) -> tuple[Entity, Entity]:
    """The entity to be asked for, and the one to be shown: backward, the subject is asked for."""
    subject, object_ = fact.subject, fact.object
    assert subject is not None  # noqa: S101 - the caller looked
    assert object_ is not None  # noqa: S101
    return (subject, object_) if rng.random() < config.backward_share else (object_, subject)
