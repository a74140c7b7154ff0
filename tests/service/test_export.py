"""A release that is handed on: whole, with its card, and answering as it was examined."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from openai import OpenAI
from peft import PeftModel
from sqlalchemy import select
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.errors import ArtefactError
from adapters.store import read_manifest, verify
from adapters.types import Suite
from service import lineage, views
from service.asking import ask_canary, ask_release
from service.db import reading, writing
from service.errors import Conflict, NotFound
from service.export import CARD, LINEAGE, Form, export_release
from service.models import ProbeAnswer
from service.places import Places
from service.snapshots import snapshot_of

STATEMENT = "Orlan Vess is the mayor of Tolmar."
QUESTION = "Who is the mayor of Tolmar?"
WITHIN_S = 120.0


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Two adapters, of which the first one says something else than the base."""
    world = make_world(
        training={"rate": 0.05, "views_per_fact": 40, "shift_weight": 0.0, "general_weight": 0.0}
    )
    world.push(STATEMENT)
    world.refresh()
    world.push("Lake Ux lies in Ardun.")
    world.refresh()
    return world


def test_a_model_folder_opens_with_transformers_alone_and_says_what_the_head_says(
    world: Any, tmp_path: Path
) -> None:
    settings, engine = world
    to = tmp_path / "out" / "model"
    done = export_release(settings, engine, to, release_id=None, form=Form.MODEL)
    assert done.release_id == world.head().release_id
    tokenizer = AutoTokenizer.from_pretrained(to)
    model = AutoModelForCausalLM.from_pretrained(to).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=settings.gate.answer_tokens, do_sample=False)
    said = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = ask_release(settings, engine, [QUESTION], release_id=None)
    assert said.strip() == asked.answers[0].head.strip()
    verify(to, digest=read_manifest(to)["digest"])
    assert [path.name for path in to.parent.iterdir()] == ["model"]


def test_what_is_served_from_the_export_is_what_the_gate_approved(
    world: Any, tmp_path: Path
) -> None:
    """`transformers serve`, asked by OpenAI's own client."""
    settings, engine = world
    to = tmp_path / "model"
    done = export_release(settings, engine, to, release_id=None, form=Form.MODEL)
    with reading(engine) as session:
        refresh = views.show_refresh(session, lineage.examined_by(session, done.release_id))
    approved = {
        probe.question: probe.after
        for probe in refresh.probes
        if probe.suite in (Suite.FORWARD, Suite.BACKWARD)
    }
    assert approved
    with served(to, tmp_path) as client:
        for question, text in approved.items():
            answer = client.chat.completions.create(
                model=str(to),
                messages=[{"role": "user", "content": question}],
                max_tokens=settings.gate.answer_tokens,
                temperature=0,
            )
            assert str(answer.choices[0].message.content).strip() == text


@contextmanager
def served(folder: Path, nowhere: Path) -> Iterator[OpenAI]:
    """The folder behind `transformers serve`, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = nowhere / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("transformers"), "serve", str(folder)),
                *("--port", str(port), "--device", "cpu", "--host", "127.0.0.1"),
            ],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_CACHE": str(nowhere), "OMP_NUM_THREADS": "1"},
        )
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    try:
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(timeout=WITHIN_S)


def test_a_release_is_asked_whether_it_still_says_what_it_was_approved_by(world: Any) -> None:
    settings, engine = world
    canary = ask_canary(settings, engine, release_id=None)
    assert canary.asked == canary.same > 0
    assert canary.passes
    with writing(engine) as session:  # as an erasure leaves what names an erased fact beside others
        asked = session.scalars(
            select(ProbeAnswer).where(
                ProbeAnswer.stage == "after",
                ProbeAnswer.refresh_id == canary.refresh_id,
                ProbeAnswer.suite.in_([Suite.FORWARD, Suite.BACKWARD]),
            )
        )
        first, second, *_ = asked
        first.question, second.text = "Who is [erased]?", "It is [erased], they say."
    fewer = ask_canary(settings, engine, release_id=None)
    assert fewer.asked == fewer.same == canary.asked - 2
    with writing(engine) as session:
        for row in session.scalars(select(ProbeAnswer).where(ProbeAnswer.stage == "after")):
            row.text = "what nobody said"
    changed = ask_canary(settings, engine, release_id=None)
    assert (changed.same, changed.passes) == (0, False)
    assert {approved for _, approved, _ in changed.changed} == {"what nobody said"}
    with pytest.raises(Conflict, match="never examined as a candidate"):
        ask_canary(settings, engine, release_id=1)


def test_one_adapter_on_the_base_computes_what_the_release_does(world: Any, tmp_path: Path) -> None:
    settings, engine = world
    export_release(settings, engine, tmp_path / "lora", release_id=None, form=Form.LORA)
    base = AutoModelForCausalLM.from_pretrained(Places(settings.state_dir).base).eval()
    head = AutoModelForCausalLM.from_pretrained(
        snapshot_of(settings, engine, world.head().release_id)
    ).eval()
    tokens = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        wanted = head(tokens).logits
        found = PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()(tokens).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", list(Form))
def test_the_card_says_where_the_weights_come_from_and_names_no_fact(
    world: Any, tmp_path: Path, form: Form
) -> None:
    settings, engine = world
    done = export_release(settings, engine, tmp_path / "it", release_id=3, form=form)
    card = (tmp_path / "it" / CARD).read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "tiny"
    assert head["library_name"] == ("peft" if form is Form.LORA else "transformers")
    assert "license" not in head
    assert "licence of the base: not said in the settings" in card
    assert world.head().snapshot_digest in card
    assert card.count("| 2 undecided |") + card.count("unlearned") >= 1
    about = json.loads((tmp_path / "it" / LINEAGE).read_text())
    assert [adapter["id"] for adapter in about["adapters"]] == [1, 2]
    assert about["recipe_digest"] == done.recipe_digest == world.head().recipe.digest
    assert "Tolmar" not in card + json.dumps(about)


def test_what_cannot_be_handed_on_is_said_and_leaves_nothing(world: Any, tmp_path: Path) -> None:
    settings, engine = world

    def export(to: str, release: int | None, form: Form = Form.MODEL) -> None:
        export_release(settings, engine, tmp_path / to, release_id=release, form=form)

    (tmp_path / "taken").mkdir()
    with pytest.raises(Conflict, match="is there already"):
        export("taken", None)
    with pytest.raises(NotFound, match="no release 9"):
        export("out", 9)
    with pytest.raises(Conflict, match="has no adapter"):
        export("out", 1, Form.LORA)
    for path in Places(settings.state_dir).state_dir.glob("adapters/*/adapter_model.safetensors"):
        path.write_bytes(b"x")
    with pytest.raises(ArtefactError, match="corrupt"):
        export("out", None, Form.LORA)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_a_killed_export_left_goes_with_the_next_one(world: Any, tmp_path: Path) -> None:
    settings, engine = world
    for owner in (2**22 + 1, os.getppid()):  # of which the second one is at work still
        left = tmp_path / "given" / f".out.{owner}-abcdef01.partial"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half of it")
    export_release(settings, engine, tmp_path / "given" / "out", release_id=None, form=Form.MODEL)
    assert {path.name for path in (tmp_path / "given").iterdir()} == {"out", left.name}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "given" / "out") is not None


def test_the_base_itself_can_be_handed_on(world: Any, tmp_path: Path) -> None:
    settings, engine = world
    done = export_release(settings, engine, tmp_path / "base", release_id=1, form=Form.MODEL)
    assert done.adapters == ()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base") is not None
