"""Head moves told to a real HTTP server: signed, and told again while it is down."""

import base64
import hashlib
import hmac
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import HttpUrl
from sqlalchemy import Engine

from service import audit, lineage, views
from service.db import reading, writing
from service.errors import NotFound, SettingsError
from service.models import Delivery, HeadAction, HeadMove, MembershipOutcome
from service.settings import Settings
from service.webhooks import count_failing, deliver_due, send, signature, webhook_secret


class Receiver:
    """Keeps what it is sent, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append((headers, body))
                self.send_response(receiver.status)
                if receiver.status == 302:
                    self.send_header("location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/moved"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()  # a second time does nothing


@pytest.fixture
def telling(settings: Settings, receiver: Receiver, engine: Engine) -> Settings:
    """The settings with the receiver in them; the base is the head."""
    webhook = settings.webhook.model_copy(update={"url": HttpUrl(receiver.url)})
    return settings.model_copy(update={"webhook": webhook})


def delivery(engine: Engine, seq: int) -> views.DeliveryView:
    with reading(engine) as session:
        return views.show_delivery(session, seq)


def test_every_move_is_told_once_and_signed(
    telling: Settings,
    engine: Engine,
    receiver: Receiver,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    store("Orlan Vess is the mayor of Tolmar.")
    adapter = promote(MembershipOutcome.LEARNED)
    assert deliver_due(telling, engine, now=now) == 2
    assert deliver_due(telling, engine, now=now + timedelta(hours=1)) == 0
    told = [json.loads(body) for _, body in receiver.got]
    assert [message["data"]["seq"] for message in told] == [1, 2]
    with reading(engine) as session:
        head = lineage.read_head(session)
        newest = audit.verify(session).newest_digest
    assert told[1]["type"] == "head.moved"
    assert told[1]["data"] == {
        "seq": 2,
        "action": "promotion",
        "release_id": head.release_id,
        "previous_release_id": 1,
        "adapters": [adapter],
        "snapshot_digest": head.snapshot_digest,
        "audit_digest": newest,
    }
    assert b"Orlan" not in receiver.got[1][1]
    for headers, body in receiver.got:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(webhook_secret(telling).removeprefix("whsec_"))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
        assert headers["webhook-timestamp"] == str(int(now.timestamp()))
    assert delivery(engine, 2).delivered_at == now
    assert delivery(engine, 2).attempts == 1


def test_a_daemon_that_is_to_end_tells_of_no_further_move(
    telling: Settings,
    engine: Engine,
    receiver: Receiver,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    store("Orlan Vess is the mayor of Tolmar.")
    promote(MembershipOutcome.LEARNED)
    assert deliver_due(telling, engine, now=now, is_ending=lambda: bool(receiver.got)) == 1
    assert len(receiver.got) == 1
    assert deliver_due(telling, engine, now=now) == 1  # by the next daemon


def test_the_signature_is_the_one_of_the_specifications_example() -> None:
    """The example of the Standard Webhooks documents."""
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == wanted


def test_a_receiver_that_is_down_is_told_later(
    telling: Settings, engine: Engine, receiver: Receiver, now: datetime
) -> None:
    receiver.stop()
    assert deliver_due(telling, engine, now=now) == 0
    assert "refused" in str(delivery(engine, 1).error)
    assert deliver_due(telling, engine, now=now + timedelta(seconds=5)) == 0
    assert delivery(engine, 1).attempts == 1  # the pause is not over
    assert deliver_due(telling, engine, now=now + timedelta(seconds=11)) == 0
    assert delivery(engine, 1).attempts == 2


@pytest.mark.parametrize("status", [302, 400, 500])
def test_an_answer_other_than_2xx_is_no_delivery(
    telling: Settings, engine: Engine, receiver: Receiver, now: datetime, status: int
) -> None:
    receiver.status = status
    assert deliver_due(telling, engine, now=now) == 0
    assert delivery(engine, 1).error == f"the receiver answered {status}"
    assert len(receiver.got) == 1  # a redirect is not followed
    receiver.status = 200
    assert deliver_due(telling, engine, now=now + timedelta(seconds=11)) == 1
    seen = delivery(engine, 1)
    assert (seen.error, seen.attempts) == (None, 2)
    first, second = (headers["webhook-id"] for headers, _ in receiver.got)
    assert first == second  # so that a receiver can tell that it has it already


def test_a_move_that_was_given_up_on_rings_no_alert(
    telling: Settings, engine: Engine, receiver: Receiver, now: datetime
) -> None:
    receiver.status = 500
    deliver_due(telling, engine, now=now)
    later = now + timedelta(seconds=telling.webhook.give_up_after_s + 1)
    nobody = telling.webhook.model_copy(update={"url": None})
    with writing(engine) as session:
        assert count_failing(session, telling.webhook, now) == 1
        assert count_failing(session, telling.webhook, later) == 1  # the newest is told for ever
        assert count_failing(session, nobody, now) == 0
        lineage.move_head(
            session,
            1,
            expected_seq=1,
            action=HeadAction.ROLLBACK,
            by="me",
            reason="r",
            now=later,
        )
        assert count_failing(session, telling.webhook, later) == 0


def test_pauses_double_up_to_an_hour_and_end_after_a_day(
    telling: Settings,
    engine: Engine,
    receiver: Receiver,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    store("Orlan Vess is the mayor of Tolmar.")
    promote(MembershipOutcome.LEARNED)
    with writing(engine) as session:  # the newest is another
        session.get_one(HeadMove, 2).moved_at = now - timedelta(days=30)
        session.add(Delivery(seq=2, attempts=0, next_at=now + timedelta(days=29), error=None))
    receiver.status = 503
    at, pauses = now, []
    while at < now + timedelta(hours=30):
        before = delivery(engine, 1).attempts
        deliver_due(telling, engine, now=at)
        if delivery(engine, 1).attempts > before:
            pauses.append(at)
        at += timedelta(seconds=10 if at < now + timedelta(hours=3) else 600)
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(pauses)]
    assert gaps[:5] == [10, 20, 40, 80, 160]
    assert gaps[-1] == 3600
    assert pauses[-1] < now + timedelta(hours=24)
    at = now + timedelta(days=30)  # the newest says what the head is, so it is never given up
    taken = deliver_due(telling, engine, now=at)
    assert (taken, delivery(engine, 2).attempts) == (0, 1)
    receiver.status = 200
    assert deliver_due(telling, engine, now=at + timedelta(minutes=1)) == 1


def test_nobody_is_told_where_nobody_is_named(
    settings: Settings, engine: Engine, now: datetime
) -> None:
    assert deliver_due(settings, engine, now=now) == 0
    assert delivery(engine, 1).attempts == 0
    with pytest.raises(SettingsError, match=r"webhook\.url"):
        send(settings, engine, 1, now=now)


def test_a_move_can_be_told_again_by_hand(
    telling: Settings, engine: Engine, receiver: Receiver, now: datetime
) -> None:
    assert send(telling, engine, 1, now=now)
    assert send(telling, engine, 1, now=now + timedelta(days=3))
    assert len(receiver.got) == 2
    with pytest.raises(NotFound, match="head move 99"):
        send(telling, engine, 99, now=now)


def test_the_secret_is_made_once_and_is_its_owners_alone(
    settings: Settings, engine: Engine
) -> None:
    first = webhook_secret(settings)
    assert first == webhook_secret(settings)
    path = settings.state_dir / "webhook_secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32
    for text, why in (
        ("whsec_no base64!", "not base64"),
        ("", "shorter"),
        ("whsec_QUJD", "shorter"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=why):
            signature(webhook_secret(settings), "m", 1, b"")
    assert [p for p in Path(settings.state_dir).iterdir() if p.suffix == ".partial"] == []


def test_a_receiver_that_answers_a_byte_at_a_time_is_left(
    settings: Settings, engine: Engine, now: datetime
) -> None:
    """Each byte is in time, and the answer never ends."""
    ended = threading.Event()

    def dribble(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            for byte in itertools.cycle(b"HTTP/1.1 200 OK and so on "):
                if ended.wait(0.05):
                    return
                connection.send(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=dribble, args=(server,))
        thread.start()
        url = HttpUrl(f"http://127.0.0.1:{server.getsockname()[1]}/")
        webhook = settings.webhook.model_copy(update={"url": url, "timeout_s": 0.3})
        telling = settings.model_copy(update={"webhook": webhook})
        began = time.monotonic()
        assert deliver_due(telling, engine, now=now) == 0
        assert time.monotonic() - began < 10
        ended.set()
        thread.join()
    assert "did not come to its answer's end" in (delivery(engine, 1).error or "")
