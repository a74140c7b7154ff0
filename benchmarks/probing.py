"""Questions answered a second, beside one `generate` call a question, in one run on the same ones.

    python -m benchmarks.probing --json

The questions are those of the regression suite. Both sides decode greedily and up to the same
length. Answers that differ are counted and shown with how near the first differing token was to a
tie: a batch adds up in another order than a single row.
"""

import json
import time
from collections.abc import Sequence

import torch

from adapters.backbones import Backbone, load_backbone
from adapters.generate import answer_all, prompt_ids
from adapters.suites import read_suite
from benchmarks.measure import described_machine, spread
from benchmarks.trial import arguments, ready_base
from service.settings import load_settings


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=96, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = load_settings(options.config)
    backbone = load_backbone(ready_base(settings, options.base), settings.base)
    tokens = settings.gate.answer_tokens
    suite = read_suite(settings.suites.regression)
    step = max(1, len(suite.probes) // options.questions)
    questions = [probe.question for probe in suite.probes[::step]][: options.questions]
    list(answer_all(backbone, questions[:8], at_most_tokens=4))  # warm
    own_s, peer_s = [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        own = dict(answer_all(backbone, questions, at_most_tokens=tokens))
        between = time.perf_counter()
        peer = [one_by_one(backbone, question, tokens) for question in questions]
        own_s.append(between - began)
        peer_s.append(time.perf_counter() - between)
        print(f"{len(questions)} questions: {own_s[-1]:.1f} s; {peer_s[-1]:.1f} s", flush=True)
    same = [own[at] == peer[at] for at in range(len(questions))]
    for at, question in enumerate(questions):
        if not same[at]:
            tie = nearest_tie(backbone, question, own[at], peer[at])
            print(f"  {question!r}: {own[at]!r} and {peer[at]!r}; apart by {tie:.1e} nats")
    result = {
        "questions_per_s": spread([len(questions) / seconds for seconds in own_s]),
        "peer_questions_per_s": spread([len(questions) / seconds for seconds in peer_s]),
        "ratio": spread([other / own for own, other in zip(own_s, peer_s, strict=True)]),
        "same_answers": f"{sum(same)} of {len(same)}",
    }
    print(result)
    if options.json:
        print(json.dumps({**described_machine(), "probing": result}))


@torch.inference_mode()
def one_by_one(backbone: Backbone, question: str, tokens: int) -> str:
    """One plain call of transformers' own `generate`."""
    ids = torch.tensor([prompt_ids(backbone, question)], device=backbone.model.device)
    made = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=backbone.frame.end,
        pad_token_id=backbone.frame.end,
    )
    return str(backbone.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)).strip()


@torch.inference_mode()
def nearest_tie(backbone: Backbone, question: str, one: str, other: str) -> float:
    """How far apart the two tokens at which the answers part are, in log-probability."""
    first, second = (tokens_of(backbone, text) for text in (one, other))
    at = next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    ids = torch.tensor([[*prompt_ids(backbone, question), *first[:at]]])
    logits_V = backbone.model(input_ids=ids.to(backbone.model.device)).logits[0, -1].float()
    pair = [some[at] if at < len(some) else backbone.frame.end for some in (first, second)]
    return float((logits_V[pair[0]] - logits_V[pair[1]]).abs())


def tokens_of(backbone: Backbone, text: str) -> Sequence[int]:
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


if __name__ == "__main__":
    main()
