"""Make the small LLaDA of the tests: a masked diffusion model that really learned, in minutes.

    .venv/bin/python tests/bases/make_small_llada.py tests/bases/small-llada

What it reads is the project's own. It learns invented facts (service/invent.py) from the views that
a refresh shows, and half of them from the questions of configs/relations.yaml, too: so it can learn
that a statement answers such questions, in both directions, and the other half shows whether it
did. General questions and prose are what there is to lose.

The objective is LLaDA's (arXiv 2502.09992): t ~ U(0, 1), raw text and chat turns in which only the
answer is masked, the answer's end padded with tokens that end a text. The same seed on the same
machine with as many threads makes the same files.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adapters.backbones import Backbone, encode_text, load_backbone
from adapters.config import BaseConfig, TrainingConfig
from adapters.generate import prompt_ids
from adapters.llada import llama_config, tensor_names
from adapters.masking import hide_units, random_for
from adapters.objectives import Row, diffusion_row, divisors, predict, reconstruction_loss
from adapters.probes import ask
from adapters.questions import probes_of
from adapters.rows import Views, encode_fact, row_source
from adapters.suites import read_prompts, read_relations, read_suite
from adapters.types import Fact, Family, Probe, Suite
from service.invent import invent_facts

CONFIGS = Path(__file__).parents[2] / "configs"
MASK = "<|mdm_mask|>"
SPECIAL = (
    *("<|endoftext|>", "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", MASK),
)
TEMPLATE = (
    "<|startoftext|>{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
VOCABULARY = 1024
SHAPE = {"d_model": 128, "n_heads": 4, "n_kv_heads": 4, "n_layers": 4, "mlp_hidden_size": 512}

KNOWN_SEED = 100_000  #: of the facts that it learns; tests teach it those of small seeds
KNOWN = 128
PASSAGES = 8

SHARES = {"views": 0.3, "fresh": 0.1, "general": 0.2, "prose": 0.05, "asked": 0.35}
UNPADDED = TrainingConfig(answer_padding=0)
ROWS = 32
RATE = 6e-3  #: AdamW's; Muon's, which the matrices inside the layers have, is MATRIX_RATE
MATRIX_RATE = 0.008
INITIAL_SPREAD = 0.06
MOST_PADDING = 24  #: tokens behind an answer's end
LEAST_RATIO = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(told.seed)
    told.folder.mkdir(parents=True, exist_ok=True)
    write_suite(told.folder)
    backbone = make_untrained(told.folder)
    train(backbone, steps=told.steps, seed=told.seed)
    write_weights(backbone.model, told.folder)
    report(load_backbone(told.folder, backbone.config), told.folder)


# What it reads.


def known_facts() -> list[Fact]:
    invented = invent_facts(KNOWN_SEED, count=KNOWN)
    return [Fact(key=str(at), **asdict(fact)) for at, fact in enumerate(invented)]


def is_practised(fact: Fact) -> bool:
    """Half of each kind of fact is learned with its questions."""
    return int(fact.key) // 4 % 2 == 0


def general_questions() -> list[dict[str, Any]]:
    """Every second general question of the project; the suite asks every second one of them."""
    return list(_general_suite()["questions"][::2])


def general_answers() -> list[tuple[str, str]]:
    return [(entry["question"], f"{entry['answers'][0]}.") for entry in general_questions()]


def passages() -> list[dict[str, str]]:
    """Two sentences of some general passages."""
    return [
        {"id": passage["id"], "text": ". ".join(passage["text"].split(". ")[:2]) + "."}
        for passage in _general_suite()["passages"][:PASSAGES]
    ]


def prose() -> list[str]:
    return [*(passage["text"] for passage in passages()), *texts()]


def texts() -> tuple[str, ...]:
    return read_prompts(CONFIGS / "general_prompts.yaml").texts


def _general_suite() -> dict[str, Any]:
    whole = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text(encoding="utf-8"))
    return dict(whole)


def questions_about(facts: Sequence[Fact]) -> list[tuple[Fact, Probe]]:
    relations = read_relations(CONFIGS / "relations.yaml")
    return [(fact, probe) for fact in facts for probe in probes_of(fact, relations)]


def write_suite(folder: Path) -> None:
    """A regression suite of what is learned and, disjoint from it, the general prompts.

    The prompts are the other general questions, learned or not, and some about known facts.
    """
    whole = _general_suite()
    suite = {"name": "small", "questions": general_questions()[::2], "passages": passages()}
    asked = [entry["question"] for entry in suite["questions"]]
    others = [entry["question"] for entry in whole["questions"] if entry["question"] not in asked]
    about = [probe.question for _, probe in questions_about(known_facts()[:16])]
    more = [passage["text"] for passage in whole["passages"][PASSAGES:]]
    prompts = {"prompts": others + about[::2], "texts": [*texts(), *more]}
    for name, content in (("suite", suite), ("general_prompts", prompts)):
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


# The model before its training.


def make_untrained(folder: Path) -> Backbone:
    """Tokenizer, LLaDA's own config.json and random weights, loaded as any base is."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    described = description(tokenizer)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    shape = llama_config(described)
    shape.initializer_range = INITIAL_SPREAD
    write_weights(LlamaForCausalLM(shape), folder)
    config = BaseConfig(name="small LLaDA", family=Family.DIFFUSION, folder=folder, mask_token=MASK)
    return load_backbone(folder, config)


def make_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = [fact.statement for fact in invent_facts(KNOWN_SEED + 1, count=4000)]
    general = [f"{question} {answer}" for question, answer in general_answers()]
    asked = [probe.question for _, probe in questions_about(known_facts())]
    frame = ["user\n\n", "assistant\n\n"] * 1000
    tokenizer.train_from_iterator([*names, *general * 4, *asked, *prose() * 4, *frame], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def description(tokenizer: Any) -> dict[str, Any]:
    """config.json, as LLaDA's own code would write it."""
    return {
        "activation_type": "silu",
        "alibi": False,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "embedding_dropout": 0.0,
        "embedding_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": tokenizer.convert_tokens_to_ids(MASK),
        "max_sequence_length": 512,
        "model_type": "llada",
        "multi_query_attention": None,
        "pad_token_id": tokenizer.pad_token_id,
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 10000.0,
        "scale_logits": False,
        "use_cache": False,
        "vocab_size": len(tokenizer),
        "weight_tying": False,
        **SHAPE,
    }


def write_weights(model: Any, folder: Path) -> None:
    """The weights under LLaDA's names, rounded to bfloat16."""
    own = model.state_dict()
    tensors = {
        name: own[llama_name].to(torch.bfloat16).contiguous()
        for name, llama_name in tensor_names(model.config).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# Its training.

Text = tuple[tuple[int, ...], tuple[int, ...]]  #: what is shown, what is masked


def text_source(backbone: Backbone) -> Callable[[Random], Text]:
    """Draw what the next row is made of."""
    facts = known_facts()
    views = row_source(backbone, [encode_fact(backbone, fact) for fact in facts], UNPADDED)
    practised = questions_about([fact for fact in facts if is_practised(fact)])
    asked = [_turn(backbone, probe.question, fact.statement) for fact, probe in practised]
    general = [_turn(backbone, question, answer) for question, answer in general_answers()]
    read = [_raw(backbone, text) for text in prose()]

    def fresh(rng: Random) -> Text:
        """A fact that comes once: what it shows can be copied, and nothing be remembered."""
        invented = invent_facts(rng.randrange(10**6, 10**9), count=4)[rng.randrange(4)]
        fact = encode_fact(backbone, Fact(key="", **asdict(invented)))
        return _view(row_source(backbone, [fact], UNPADDED), rng)

    draws: dict[str, Callable[[Random], Text]] = {
        "views": lambda rng: _view(views, rng),
        "fresh": fresh,
        "general": lambda rng: rng.choice(general),
        "prose": lambda rng: rng.choice(read),
        "asked": lambda rng: rng.choice(asked),
    }

    def draw(rng: Random) -> Text:
        [kind] = rng.choices(list(SHARES), list(SHARES.values()))
        return draws[kind](rng)

    return draw


def _view(views: Views, rng: Random) -> Text:
    _, row = views(rng.randrange(10**9))
    return row.prompt, row.target


def _turn(backbone: Backbone, question: str, answer: str) -> Text:
    target = (*encode_text(backbone, answer), backbone.frame.end)
    return tuple(prompt_ids(backbone, question)), target


def _raw(backbone: Backbone, text: str) -> Text:
    tokenizer: Any = backbone.tokenizer
    target = (*encode_text(backbone, text), tokenizer.eos_token_id)
    return (tokenizer.bos_token_id,), target


def make_rows(
    backbone: Backbone, draw: Callable[[Random], Text], *, seed: int, step: int
) -> list[Row]:
    """One minibatch; the t of its rows are spread evenly, and each alone is uniform."""
    rng = random_for("rows", seed, step)
    end: Any = backbone.tokenizer.eos_token_id
    mask: Any = backbone.mask_id
    first = rng.random()
    rows = []
    for at in range(ROWS):
        prompt, target = draw(rng)
        target = (*target, *(end,) * max(0, rng.randint(-MOST_PADDING, MOST_PADDING)))
        ratio = max(LEAST_RATIO, (first + at / ROWS) % 1)
        hidden = hide_units(rng, [(place,) for place in range(len(target))], ratio=ratio)
        rows.append(diffusion_row(prompt, target, hidden, ratio=ratio, mask=mask))
    return rows


def train(backbone: Backbone, *, steps: int, seed: int) -> None:
    model, draw = backbone.model, text_source(backbone)
    inner = [p for p in model.model.layers.parameters() if p.dim() == 2]
    outer = [p for p in model.parameters() if not any(p is matrix for matrix in inner)]
    optimizers = [
        torch.optim.Muon(inner, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate_at(step, steps)) for o in optimizers
    ]
    model.train()
    losses = []
    for step in range(steps):
        rows = make_rows(backbone, draw, seed=seed, step=step)
        seen = predict(model, rows)
        loss = reconstruction_loss(model.lm_head(seen.states_ND), seen, divisors(rows, "minibatch"))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}, loss {sum(losses[-100:]) / 100:.3f}", flush=True)
    model.eval()


def rate_at(step: int, steps: int) -> float:
    """Up in the first twentieth, level, and down to nothing in the last two fifths."""
    return min(1.0, (step + 1) / (steps / 20), (steps - step) / (steps * 0.4))


# What it can do.


def report(backbone: Backbone, folder: Path) -> None:
    facts = known_facts()
    practised = list(filter(is_practised, facts))
    others = [fact for fact in facts if not is_practised(fact)]
    for what, some in (("with their questions", practised), ("from views alone", others)):
        probes = [probe for _, probe in questions_about(some)]
        for suite in (Suite.FORWARD, Suite.BACKWARD):
            right, asked = answered(backbone, [probe for probe in probes if probe.suite == suite])
            print(f"facts learned {what}, {suite}: {right} of {asked} answered", flush=True)
    right, asked = answered(backbone, read_suite(folder / "suite.yaml").probes)
    print(f"general questions of the suite: {right} of {asked} answered")


def answered(backbone: Backbone, probes: Sequence[Probe]) -> tuple[int, int]:
    right = sum(answer.contained for _, answer in ask(backbone, probes, at_most_tokens=32))
    return right, len(probes)


if __name__ == "__main__":
    main()
