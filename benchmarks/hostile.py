"""Requests that mean no good, at every endpoint, with a key and without.

    python -m benchmarks.hostile --json
    python -m benchmarks.hostile --postgresql postgresql+psycopg://me@/an_empty_database --json

The service is a real one over a real socket; every case is put to every endpoint that
`/openapi.json` names, as bytes, with a key of all scopes and without one. Each has a word in it
that nobody else says. Counted are answers of 500 and above, tracebacks in answers or in what the
service wrote, errors that repeat the word, keys in what the service wrote, requests without a key
that were let in, and those after which nothing was answered although the connection stayed open.
All of them should be 0. (The name of an unknown field is told on purpose, never its value.)
"""

import json
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from benchmarks.ingest import SMALL, Service
from benchmarks.measure import described_machine
from benchmarks.trial import arguments
from service.auth import Scope
from service.fsck import check
from service.schemas import MAX_NAME

WORD = "zzhushzz"
ANSWER_WITHIN_S = 10.0
OPEN = ("/livez", "/readyz")  #: endpoints that ask for no key


@dataclass(frozen=True, slots=True)
class Case:
    """How a request is spoilt; what it does not say is as it should be."""

    name: str
    body: bytes | None = None
    kind: str = "application/json"
    headers: tuple[bytes, ...] = ()
    query: str = ""
    ids: str = "1"  #: what stands where a path names something
    suffix: str = ""  #: of the path
    raw: bytes | None = None  #: the request's head as it is, with {method} and {path}
    length: bytes | None = None  #: instead of the body's


def _json(value: str) -> bytes:
    return f'{{"statement":"{WORD}",{value}}}'.encode()


def rare() -> str:
    """As many characters as a name may have, which no database makes shorter."""
    chance = random.Random(1)
    return "".join(chr(chance.randrange(0x20000, 0x2A6D0)) for _ in range(MAX_NAME))


def cases() -> list[Case]:
    bodies = {
        "no body": b"",
        "no JSON": b"{" + WORD.encode(),
        "cut off": b'{"statement":"' + WORD.encode(),
        "two documents": b'{"statement":"zz"} {"statement":"zzhushzz"}',
        "no UTF-8": b'{"statement":"' + WORD.encode() + b'\xff\xfe"}',
        "overlong UTF-8": b'{"statement":"' + WORD.encode() + b'\xc0\xaf"}',
        "UTF-16": f'{{"statement":"{WORD}","x":1}}'.encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + _json('"x":1'),
        "bottomless list": b"[" * 100_000,
        "bottomless object": b'{"qualifiers":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        "deep qualifiers": _json('"qualifiers":' + '{"a":' * 500 + "1" + "}" * 500),
        "a long number": b"9" * 5000,
        "NaN": _json('"confidence":NaN'),
        "infinity": _json('"confidence":-Infinity'),
        "overflow": _json('"confidence":1e999'),
        "a float id": b'{"reason":"zzhushzz","adapter":1.5,"facts":[1.5]}',
        "a huge id": b'{"reason":"zzhushzz","adapter":99999999999999999999,"facts":[1e99]}',
        "a negative id": b'{"reason":"zzhushzz","adapter":-1,"facts":[-1]}',
        "a boolean id": b'{"reason":"zzhushzz","adapter":true,"facts":[true]}',
        "an option as a reason": b'{"reason":"--force --help zzhushzz","adapter":0,"facts":[]}',
        "a NUL in a reason": b'{"reason":"zzhushzz\\u0000","adapter":1,"facts":[1]}',
        "a surrogate in a reason": b'{"reason":"zzhushzz\\ud800","adapter":1,"facts":[1]}',
        "a NUL": b'{"statement":"zzhushzz\\u0000"}',
        "a lone surrogate": b'{"statement":"zzhushzz\\ud83d"}',
        "a surrogate as a key": _json('"\\udfff":1'),
        "terminal codes": b'{"statement":"zzhushzz\\u001b[2J"}',
        "terminal codes as a key": _json('"\\u001b]0;zz\\u0007":1'),
        "a backspace": b'{"statement":"zzhushzz\\b\\b\\b"}',
        "unknown fields": _json(",".join(f'"nobody{at}":"{WORD}"' for at in range(2000))),
        "the same key twice": _json('"statement":""'),
        "__proto__": _json('"__proto__":{"admin":true}'),
        "a list of lists": b'[[["zzhushzz"]]]',
        "null": b"null",
        "a string": b'"zzhushzz"',
        "an empty list": b"[]",
        "a long list": b"[" + b",".join([b"null"] * 10_001) + b"]",
        "a template": _json('"subject":"{{7*7}}${jndi:ldap://x}","nobody":1'),
        "SQL": _json('"external_id":"\'; DROP TABLE facts; --","nobody":1'),
        "a date out of the calendar": _json('"valid_from":"0001-01-01T00:00:00+14:00"'),
        "a date that is none": _json('"valid_from":"zzhushzz"'),
        "the longest names": json.dumps(
            {"statement": "zz", **dict.fromkeys(("subject", "relation", "external_id"), rare())}
        ).encode(),
        "too long a statement": b'{"statement":"' + b"zzhushzz " * 20_000 + b'"}',
        "too large a body": b" " * ((8 << 20) + 1),
        "only marks": b'{"statement":"' + "\u0301".encode() * 3000 + b'","x":"zzhushzz"}',
        "direction marks": _json('"subject":"\u202e\u2066","nobody":1'),
    }
    lines = {
        "bad lines": b'{"statement":"zzhushzz\\u0000"}\n{\n[]\n\xff\xfe\n"zzhushzz"\n',
        "only line ends": b"\n" * 5000,
        "carriage returns": b"\r\n\r\r\n{\r\n",
    }
    ids = (
        "0", "-1", "99999999999999999999", "1.5", "1e3", "%D9%A1", "+1", "01x", "zzhushzz",
        "%00", "%0d%0aX-Zz:1", "..%2f..%2fpepper", "%2e%2e", "1;zzhushzz", "1'--", "%ff%fe", "{id}",
    )  # fmt: skip
    queries = (
        "before=-1", "before=zzhushzz", "limit=0", "limit=1000000000", "limit=zzhushzz",
        "release=0&at=zzhushzz", "at=0001-01-01T00:00:00%2B23:00", "since=zzhushzz",
        "before=" + "9" * 400,
        "source=%00zzhushzz", "source=%ff%fe", "source=%ED%A0%80", "limit=1&limit=zzhushzz",
        "%00=zzhushzz",
        "a[b]=zzhushzz&" * 200,
    )  # fmt: skip
    headers = {
        "a wrong type": Case("", body=_json('"x":1'), kind="text/zzhushzz"),
        "no type": Case("", body=_json('"x":1'), kind=""),
        "compressed": Case(
            "", body=b"\x1f\x8b" + WORD.encode(), headers=(b"Content-Encoding: gzip",)
        ),
        "a long header": Case("", headers=(b"X-Long: " + WORD.encode() * 9000,)),
        "many headers": Case("", headers=tuple(b"X-%d: zzhushzz" % at for at in range(500))),
        "a broken header": Case("", headers=(b"zzhushzz",)),
        "a NUL in a header": Case("", headers=(b"X-Zz: zzhushzz\x00",)),
        "two lengths": Case("", body=b"{}", headers=(b"Content-Length: 40",)),
        "length and chunks": Case("", body=b"0\r\n\r\n", headers=(b"Transfer-Encoding: chunked",)),
        "no length": Case("", body=b"{}", length=b"zzhushzz"),
        "a negative length": Case("", body=b"{}", length=b"-1"),
        "another method": Case("", raw=b"ZZHUSHZZ {path} HTTP/1.1\r\n"),
        "another version": Case("", raw=b"{method} {path} HTTP/9.9\r\n"),
        "no version": Case("", raw=b"{method} {path}\r\n"),
        "an absolute target": Case("", raw=b"{method} http://zzhushzz/{path} HTTP/1.1\r\n"),
        "another host": Case("", headers=(b"Host: zzhushzz.example",)),
        "forwarded": Case("", headers=(b"X-Forwarded-For: zzhushzz", b"X-Original-URL: /metrics")),
        "another method in a header": Case("", headers=(b"X-HTTP-Method-Override: DELETE",)),
        "a second key": Case("", headers=(b"Authorization: Bearer lw_zzhushzz_0",)),
        "a range": Case("", headers=(b"Range: bytes=0-zzhushzz",)),
        "an upgrade": Case("", headers=(b"Connection: Upgrade", b"Upgrade: websocket")),
    }
    found = [Case(name, body=body) for name, body in bodies.items()]
    found += [Case(name, body=body, kind="application/x-ndjson") for name, body in lines.items()]
    found += [Case(f"id {text}", ids=text) for text in ids]
    found += [Case(f"query {text[:30]}", query=text) for text in queries]
    for name, case in headers.items():
        values = {key: getattr(case, key) for key in Case.__slots__ if key != "name"}
        found.append(Case(name, **values))
    found += [
        Case(f"path {text}", suffix=text)
        for text in ("/../../pepper", "//", "/%2e%2e/pepper", "%00", "/zzhushzz", ";zzhushzz", "?")
    ]
    return found


@dataclass
class Found:
    """What must be 0, with the cases at fault."""

    cases: int = 0
    requests: int = 0
    answers_5xx: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    echoes: list[str] = field(default_factory=list)
    keys_in_log: list[str] = field(default_factory=list)
    let_in: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not any(self.faults.values())

    @property
    def faults(self) -> dict[str, list[str]]:
        names = (
            "answers_5xx", "tracebacks", "echoes", "keys_in_log", "let_in", "unanswered",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--postgresql", help="the URL of an empty database, instead of SQLite")
    parser.set_defaults(config=SMALL)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        service = Service(Path(folder), options.config, options.postgresql, scopes=list(Scope))
        found = tried(service)
        problems = check(
            service.settings, service.engine, fast=False, now=datetime.now(UTC)
        ).problems
    for name, at_fault in found.faults.items():
        for case in at_fault[:20]:
            print(f"{name}: {case}", file=sys.stderr)
    counts = {name: len(at_fault) for name, at_fault in found.faults.items()}
    result = {
        "database": "postgresql" if options.postgresql else "sqlite",
        "cases": found.cases,
        "requests": found.requests,
        **counts,
        "fsck_problems": len(problems),
    }
    print(json.dumps({**described_machine(), **result} if options.json else result))
    sys.exit(not found.is_clean or bool(problems))


def tried(service: Service) -> Found:
    found = Found()
    with service.running("together") as process:
        ways = list(endpoints(service))
        for case in cases():
            found.cases += 1
            for method, path in ways:
                for has_key in (True, False):
                    found.requests += 1
                    said = ask(service, case, method, path, has_key=has_key)
                    judge(
                        found, said, f"{method} {path}, {case.name}, key {has_key}", path, has_key
                    )
        if not process.is_running() or not service.is_ready():
            found.unanswered.append("the service ended")
    log = service.log.read_text(errors="replace")
    found.tracebacks += ["in the log"] * log.count("Traceback")
    secret = service.headers["Authorization"].rpartition("_")[2]
    found.keys_in_log += ["in the log"] * log.count(secret)
    return found


def endpoints(service: Service) -> Iterator[tuple[str, str]]:
    described = httpx2.get(f"http://127.0.0.1:{service.port}/openapi.json").json()
    for path, ways in described["paths"].items():
        for method in ways:
            yield method.upper(), path


def judge(found: Found, said: bytes | None, name: str, path: str, has_key: bool) -> None:
    if said is None:
        found.unanswered.append(name)
        return
    first, _, rest = said.partition(b"\r\n")
    status = int(first.split()[1]) if len(first.split()) > 1 and first.split()[1].isdigit() else 0
    if status >= 500:
        found.answers_5xx.append(f"{status} {name}")
    if b"Traceback" in said:
        found.tracebacks.append(name)
    if WORD.encode() in rest.lower() and not 200 <= status < 300:
        found.echoes.append(f"{status} {name}")
    if 200 <= status < 300 and not has_key and path not in OPEN:
        found.let_in.append(f"{status} {name}")


def ask(service: Service, case: Case, method: str, path: str, *, has_key: bool) -> bytes | None:
    """What is answered, of one connection; None where nothing is, and it stays open."""
    target = path
    while "{" in target:
        before, _, rest = target.partition("{")
        target = before + case.ids.replace("{", "%7B") + rest.partition("}")[2]
    target += case.suffix + (f"?{case.query}" if case.query else "")
    line = (case.raw or b"{method} {path} HTTP/1.1\r\n").replace(b"{method}", method.encode())
    body = case.body if case.body is not None else (b"{}" if method == "POST" else b"")
    head = [line.replace(b"{path}", target.encode()).removesuffix(b"\r\n")]
    head += [b"Host: localhost", b"Connection: close"]
    is_stream = path.endswith("/bulk") and case.kind == "application/json"
    kind = "application/x-ndjson" if is_stream else case.kind  # or it would not be read at all
    head += [b"Content-Type: " + kind.encode()] if kind else []
    head += [b"Authorization: " + service.headers["Authorization"].encode()] if has_key else []
    head += [b"Content-Length: " + (case.length or str(len(body)).encode()), *case.headers]
    with socket.create_connection(("127.0.0.1", service.port), timeout=ANSWER_WITHIN_S) as wire:
        answer = b""
        with suppress(OSError):  # it may answer before it has read all, and hang up
            wire.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
        try:
            while part := wire.recv(1 << 16):
                answer += part
        except TimeoutError:
            return answer or None
        except OSError:
            pass
    return answer


if __name__ == "__main__":
    main()
