"""Compare what the model is shown of a fact, at equal tokens, on NameDescription statements.

    python -m benchmarks.masking --data FOLDER --runs runs.jsonl --json

Twenty statements (ten name first, ten description first; Lin et al. 2024, after Berglund et al.
2023) are trained with each way of showing them, and the set's own questions asked: forward where
the question runs as the statement does, backward where it runs against it. Of each person's
questions every second one is for choosing, the others for reporting. A question that is word for
word a training view is left out. Nothing holds the model in place here: general rows would take
the same from every way, and most of the time. Scores are exact containment of the answer; the
second number of a pair is ROUGE-1 recall. All ways on three seeds take hours on a small machine:
what --runs names holds one line a run, and a run that has its line is not made again.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from adapters.backbones import Backbone, load_backbone
from adapters.config import TrainingConfig
from adapters.probes import ask
from adapters.rows import encode_fact, row_source
from adapters.store import canonical_digest, read_manifest
from adapters.types import Answer, Fact, Probe, ProbeOrigin, Suite
from benchmarks.measure import add_line, described_machine, read_lines
from benchmarks.trial import arguments, learn, ready_base
from service.settings import Settings, load_settings

LEAD = "Please answer the following question based on your knowledge:\n"
WHOLE = {"visible_weight": 1.0}
PAPER = {
    **WHOLE,
    "wordings": ("{masked}\nReturn the recovered masked passage.",),
    "entity_share": 0.0,
    "about_share": 0.0,
    "question_share": 0.0,
}
FREE = {"general_share": (0.0, 0.0), "shift_weight": 0.0}
TOKENS_ONLY = {**WHOLE, "entity_share": 0.0, "about_share": 0.0, "question_share": 0.0}
#: What each takes from the default; `bare` gives no subject and object with the facts.
WAYS: dict[str, dict[str, Any]] = {
    "paper": {
        **PAPER,
        "form": "mask_token",
        "answer_opening": "Here is the recovered text:\n\n",
    },
    "paper, no opening": {**PAPER, "form": "mask_token"},
    "cloze": PAPER,
    "cloze, six wordings": TOKENS_ONLY,
    "cloze, words": {**TOKENS_ONLY, "word_share": 1.0},
    "cloze, entities": {**WHOLE, "about_share": 0.0, "question_share": 0.0},
    "cloze, entities, questions": {**WHOLE, "about_share": 0.0},
    "cloze, entities, questions, names": WHOLE,
    "the same, bare": WHOLE,
    "the same, loss on hidden": {"visible_weight": 0.0},
    "default": {},
    "plain": {"objective": "plain"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One statement, and its questions in two halves: for choosing, and for reporting."""

    fact: Fact
    halves: tuple[tuple[Probe, ...], tuple[Probe, ...]]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public set")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--tokens", type=int, default=60_000, help="in the facts' rows of a run")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="default: all")
    parser.add_argument("--runs", type=Path, help="where each run's scores are kept, as JSON lines")
    options = parser.parse_args()
    settings = load_settings(options.config)
    base = ready_base(settings, options.base)
    people = read_people(options.data, settings.training)
    kept = {line["key"]: line for line in read_lines(options.runs)} if options.runs else {}
    made: list[dict[str, Any]] = []
    for seed in options.seed or [1, 2, 3]:
        for way in options.way or WAYS:
            config = settings_of(settings.training, way, seed)
            key = canonical_digest(
                [way, options.tokens, config.model_dump(mode="json"), read_manifest(base)["digest"]]
            )
            if key not in kept:
                score = run(settings, config, base, people, way, options.tokens)
                kept[key] = {"key": key, "way": way, "seed": seed, **described_machine()}
                kept[key]["score"] = score
                if options.runs:
                    add_line(options.runs, kept[key])
            made.append(kept[key])
            print(f"seed {seed} {way}: {kept[key]['score']}", flush=True)
    if options.json:
        ways = dict.fromkeys(line["way"] for line in made)
        masking = {way: summed_up([m["score"] for m in made if m["way"] == way]) for way in ways}
        commits = sorted({str(line["commit"]) for line in made})
        print(json.dumps({**described_machine(), "runs_at": commits, "masking": masking}))


def settings_of(training: TrainingConfig, way: str, seed: int) -> TrainingConfig:
    return TrainingConfig.model_validate(training.model_dump() | {"seed": seed} | FREE | WAYS[way])


def read_people(data: Path, training: TrainingConfig) -> list[Person]:
    """The first ten statements of either kind, with their questions."""
    lines = (data / "name_description_test.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    statements = json.loads((data / "name_description_train.json").read_text(encoding="utf-8"))
    viewed = {wording.partition("{entity}")[0] for wording in training.about_wordings} - {""}
    people = []
    for at in (*range(10), *range(30, 40)):
        statement = statements[at]["text"]
        mine = [entry for entry in asked if entry["answer"].rstrip(".") in statement]
        name = next(entry["answer"] for entry in mine if entry["task"] == "D2N")
        said = next(entry["answer"] for entry in mine if entry["task"] == "N2D")
        mine = [entry for entry in mine if entry["answer"] in (name, said)]
        fact = Fact(key=str(at), statement=statement, subject=name, object=said.rstrip("."))
        probes = [
            probe_of(entry, f"{at}/{number}", str(at))
            for number, entry in enumerate(mine)
            if not any(entry["question"].removeprefix(LEAD).startswith(lead) for lead in viewed)
        ]
        by_task = [[p for p in probes if p.suite is suite] for suite in ASKED]
        halves = tuple(tuple(p for some in by_task for p in some[half::2]) for half in (0, 1))
        people.append(Person(fact=fact, halves=(halves[0], halves[1])))
    return people


ASKED = (Suite.FORWARD, Suite.BACKWARD)


def probe_of(entry: dict[str, str], key: str, cluster: str) -> Probe:
    is_forward = entry["task"] == ("N2D" if entry["group"] == "NameIsDescription" else "D2N")
    return Probe(
        key=key,
        suite=Suite.FORWARD if is_forward else Suite.BACKWARD,
        cluster=cluster,
        question=entry["question"],
        answers=(entry["answer"],),
        origin=ProbeOrigin.GIVEN,
    )


def run(
    settings: Settings,
    config: TrainingConfig,
    base: Path,
    people: Sequence[Person],
    way: str,
    tokens: int,
) -> dict[str, Any]:
    """Train with one way of showing; for each half and direction, containment and ROUGE-1."""
    facts = [person.fact for person in people]
    if way.endswith("bare"):
        facts = [Fact(key=fact.key, statement=fact.statement) for fact in facts]
    backbone = load_backbone(base, settings.base)
    views = views_for(backbone, facts, config, tokens)
    config = config.model_copy(update={"views_per_fact": views})
    trained, candidate = learn(settings, config, facts, base)
    score: dict[str, Any] = {"views": views, "training_s": trained.training_s}
    for half, name in enumerate(("choosing", "reporting")):
        probes = [probe for person in people for probe in person.halves[half]]
        answers = [answer for _, answer in ask(candidate, probes, at_most_tokens=48)]
        score[name] = {suite.split()[-1]: marks(answers, suite) for suite in ASKED}
    return score


def views_for(
    backbone: Backbone, facts: Sequence[Fact], config: TrainingConfig, tokens: int
) -> int:
    """How many views of each fact make up so many tokens."""
    draw = row_source(backbone, [encode_fact(backbone, fact) for fact in facts], config)
    rows = [draw(position)[1] for position in range(10 * len(facts))]
    a_row = mean(len(row.prompt) + len(row.target) for row in rows)
    return math.ceil(tokens / a_row / len(facts))


def marks(answers: Sequence[Answer], suite: Suite) -> list[float]:
    mine = [answer for answer in answers if answer.probe.suite is suite]
    contained = mean(answer.contained for answer in mine)
    return [round(contained, 3), round(mean(answer.recall for answer in mine), 3)]


def summed_up(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Containment on the reporting half: the mean over the seeds, and each seed's."""
    by_direction: dict[str, Any] = {}
    for direction in ("forward", "backward"):
        seeds = [score["reporting"][direction][0] for score in scores]
        by_direction[direction] = round(mean(seeds), 3)
        by_direction[f"{direction}_by_seed"] = seeds
    return by_direction


if __name__ == "__main__":
    main()
