"""Bytes made by a fuzzer, for whatever reads what others send: only a refusal may come of them.

    pip install -c constraints.txt -e '.[fuzz]'
    python -m benchmarks.fuzz --seconds 60 --json
    python -m benchmarks.fuzz --only fact --seconds 600

atheris (libFuzzer, led by what code each input reaches) makes lines of a stream, bodies of
requests, facts of the right fields with whatever in them, and pairs of an answer and what it is
held against. Whatever is taken must be storable, and the same when it is read again; whatever is
refused must be said in printable words. An input that breaks this ends its parser's run, and is
shown. Each parser runs in a process of its own.
"""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MAX_BYTES = 4096
MAX_STATEMENT_BYTES = 2000
SEEDS: dict[str, list[Any]] = {
    "fact": [
        {
            "external_id": "a",
            "statement": "Orlan Vess is the mayor of Tolmar.",
            "subject": "Orlan Vess",
            "relation": "holds_office",
            "object": "the mayor of Tolmar",
            "qualifiers": {"since": {"year": 2026, "sure": [True, None, 1.5]}},
            "functional": True,
            "valid_from": "2026-05-03T12:00:00Z",
            "valid_to": "2027-05-03T12:00:00.5+02:00",
            "provenance": {"uri": "x", "retrieved_at": "2026-05-03T12:00:00Z", "quote": "q"},
            "confidence": 0.5,
            "trust": "low",
            "tags": ["a", "\u00e9"],
            "probes": [{"direction": "forward", "question": "Who?", "answers": ["Orlan Vess"]}],
        },
        {"statement": "One."},
    ],
    "body": [[{"statement": "One."}, None], {"reason": "r", "adapter": 1, "with_later": True},
             {"reason": "r", "facts": [1, 2], "dry_run": True}],
    "record": ["\u0001" * 200, "".join(map(chr, range(32, 127)))],
    "grading": ["the 3rd of May, 2026|2026-05-03", "He has twenty-one.|21", "The Alps|alps"],
}  # fmt: skip


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one object")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--only", action="append", choices=list(SEEDS))
    parser.add_argument("--child", help="not to be given by hand")
    options = parser.parse_args()
    if options.child:
        fuzz(options.child, options.seconds)
    found = {}
    for name in options.only or SEEDS:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--child", name]
        command += ["--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, check=False)
        said = done.stderr.decode(errors="replace")
        runs = re.findall(r"Done (\d+) runs|^#(\d+)\s", said, re.MULTILINE)
        found[name] = {
            "inputs": max((int(a or b) for a, b in runs), default=0),
            "broken": int(done.returncode != 0),
        }
        if done.returncode:
            print(said[-3000:], file=sys.stderr)
        print(name, found[name], flush=True)
    if options.json:
        from benchmarks.measure import described_machine  # not before the parsers are instrumented

        print(json.dumps({**described_machine(), "seconds": options.seconds, **found}))
    sys.exit(any(one["broken"] or not one["inputs"] for one in found.values()))


def fuzz(name: str, seconds: int) -> None:
    """Make inputs for one parser until the time is up, or one breaks it; does not return."""
    import atheris

    with atheris.instrument_imports(include=["service", "adapters"]):
        targets = make_targets()
    with TemporaryDirectory() as folder:
        for at, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(at)).write_text(json.dumps(seed, ensure_ascii=False))
        atheris.Setup(
            [
                *(sys.argv[0], folder, f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}"),
                *("-rss_limit_mb=0", f"-artifact_prefix={folder}/"),
            ],
            targets[name],
        )
        atheris.Fuzz()


def make_targets() -> dict[str, Callable[[bytes], None]]:
    """What an input is given to; each raises where a promise is broken."""
    import atheris
    from pydantic import ValidationError

    from adapters import grading
    from service import ingest
    from service.schemas import ErasureIn, FactIn, RollbackIn

    context = {"max_statement_bytes": MAX_STATEMENT_BYTES}

    def look_at(found: Any) -> None:
        if not isinstance(found, FactIn):
            for problem in found:
                for said in (problem.detail, problem.pointer):
                    if not (said.isprintable() and said.isascii()):
                        raise AssertionError(f"not to be shown: {said!r}")
            return
        text = found.model_dump_json()
        if "\0" in found.statement or FactIn.model_validate_json(text, context=context) != found:
            raise AssertionError(f"another one when it is read again: {text!r}")
        if FactIn.model_validate_json(text, context=context).digest != found.digest:
            raise AssertionError(f"its digest is another one: {text!r}")
        if len(found.statement.encode()) > MAX_STATEMENT_BYTES:
            raise AssertionError("longer than it may be")

    def fact(data: bytes) -> None:
        look_at(ingest._check_line(data, MAX_STATEMENT_BYTES))

    def body(data: bytes) -> None:
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            return
        for item in parsed if isinstance(parsed, list) else [parsed]:
            look_at(ingest._check(item, MAX_STATEMENT_BYTES))
        for model in (RollbackIn, ErasureIn):
            try:
                said = model.model_validate(parsed).arguments
            except (ValidationError, RecursionError) as error:
                look_at(ingest.item_problems(error))
            else:
                if any("\0" in argument for argument in said):
                    raise AssertionError(f"no argument of a command: {said!r}")

    def graded(data: bytes) -> None:
        text, _, answer = data.decode("utf-8", "replace").partition("|")
        recall = grading.rouge1_recall(text, answer)
        exact, contained = grading.is_exact(text, [answer]), grading.contains(text, [answer])
        if not 0 <= recall <= 1 or (exact and not contained):
            raise AssertionError(f"{text!r}, {answer!r}: {recall}, {exact}, {contained}")

    def record(data: bytes) -> None:
        made = atheris.FuzzedDataProvider(data)
        names = [name for name in FactIn.model_fields if made.ConsumeBool()]
        look_at(ingest._check({name: value(made, name) for name in names}, MAX_STATEMENT_BYTES))

    def value(made: Any, name: str, depth: int = 0) -> Any:
        """One that the field takes, or whatever JSON has."""
        kind = made.ConsumeIntInRange(0, 9)
        if kind < 4:
            return SEEDS["fact"][0].get(name, "x")
        if kind < 6:
            return made.ConsumeUnicode(made.ConsumeIntInRange(0, 600))
        if kind < 7:
            return made.ConsumeFloat()
        if kind < 8 or depth > 7:
            return made.PickValueInList([None, True, False, 0, -1, 1 << 70, 10**400, "", " "])
        inside = [value(made, name, depth + 1) for _ in range(made.ConsumeIntInRange(0, 4))]
        return inside if kind < 9 else {made.ConsumeUnicode(9): one for one in inside}

    return {"fact": fact, "body": body, "record": record, "grading": graded}


if __name__ == "__main__":
    main()
