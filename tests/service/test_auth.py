"""API keys: shown once, stored as a digest, and useless in every way but the right one."""

import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from service import auth
from service.auth import Caller, Scope
from service.db import reading, writing
from service.errors import Conflict, DatabaseNotReady, NotAllowed, NotFound
from service.initialise import initialise
from service.models import ApiKey
from service.settings import Settings


@pytest.fixture
def check(engine: Engine, settings: Settings, now: datetime) -> Callable[..., Caller]:
    def check_at(key: str, *, after: timedelta = timedelta()) -> Caller:
        pepper = auth.read_pepper(settings.state_dir)
        with reading(engine) as session:
            return auth.check_key(session, key, pepper=pepper, now=now + after)

    return check_at


def test_a_key_carries_its_source_and_scopes(
    make_key: Callable[..., str], check: Callable[..., Caller]
) -> None:
    caller = check(make_key(Scope.READ, Scope.INGEST, source="archive"))
    assert caller.source == "archive"
    assert caller.scopes == {Scope.READ, Scope.INGEST}


def test_no_scope_includes_another(
    make_key: Callable[..., str], check: Callable[..., Caller]
) -> None:
    caller = check(make_key(Scope.ADMIN))
    with pytest.raises(NotAllowed, match="lacks the scope read"):
        caller.require(Scope.READ)


def test_the_secret_is_stored_nowhere(
    engine: Engine, settings: Settings, make_key: Callable[..., str]
) -> None:
    secret = make_key(Scope.READ).split("_")[2].encode()
    engine.dispose()
    files = [path for path in settings.state_dir.rglob("*") if path.is_file()]
    assert files
    assert not any(secret in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    "damage",
    [
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.replace("lw_", "xx_"),
        lambda key: key.upper(),
        lambda key: key.rsplit("_", 1)[0],
        lambda key: "lw__",
        lambda key: "",
        lambda key: "lw_\ud800_\ud800",
        lambda key: "lw_é_x",
    ],
)
def test_a_key_that_differs_in_anything_is_refused_in_the_same_words(
    make_key: Callable[..., str], check: Callable[..., Caller], damage: Callable[[str], str]
) -> None:
    key = make_key(Scope.READ)
    with pytest.raises(NotAllowed, match=r"^The API key is unknown or revoked\.$"):
        check(damage(key))


def test_a_key_of_another_installation_is_refused(
    make_key: Callable[..., str], check: Callable[..., Caller], settings: Settings
) -> None:
    key = make_key(Scope.READ)
    (settings.state_dir / "pepper").unlink()
    auth.make_pepper(settings.state_dir)
    with pytest.raises(NotAllowed):
        check(key)


def test_a_key_expires(
    make_key: Callable[..., str], check: Callable[..., Caller], now: datetime
) -> None:
    key = make_key(Scope.READ, expires_at=now + timedelta(days=1))
    check(key, after=timedelta(hours=23))
    with pytest.raises(NotAllowed):
        check(key, after=timedelta(days=1))


def test_a_revoked_key_is_useless_and_its_sources_other_key_is_not(
    engine: Engine, make_key: Callable[..., str], check: Callable[..., Caller], now: datetime
) -> None:
    old, new = make_key(Scope.READ), make_key(Scope.READ)
    with writing(engine) as session:
        auth.revoke_key(session, old.split("_")[1], by="test", now=now)
    with pytest.raises(NotAllowed):
        check(old)
    assert check(new).source == "newsroom"


def test_a_key_is_revoked_once(engine: Engine, make_key: Callable[..., str], now: datetime) -> None:
    key_id = make_key(Scope.READ).split("_")[1]
    with writing(engine) as session:
        auth.revoke_key(session, key_id, by="test", now=now)
    with pytest.raises(Conflict, match="already revoked"), writing(engine) as session:
        auth.revoke_key(session, key_id, by="test", now=now)
    with pytest.raises(NotFound), writing(engine) as session:
        auth.revoke_key(session, "nobody", by="test", now=now)


def test_a_rotated_key_and_the_new_one_are_good_side_by_side_for_a_while(
    engine: Engine,
    settings: Settings,
    make_key: Callable[..., str],
    check: Callable[..., Caller],
    now: datetime,
) -> None:
    old = make_key(Scope.READ, Scope.INGEST, source="archive")
    pepper = auth.read_pepper(settings.state_dir)
    day = timedelta(days=1)

    def rotate(key: str, **how: Any) -> str:
        with writing(engine) as session:
            return auth.rotate_key(
                session, key.split("_")[1], pepper=pepper, by="test", now=now, **how
            )

    new = rotate(old, old_until=now + day)
    for key in (old, new):
        assert check(key).source == "archive"
        assert check(key).scopes == {Scope.READ, Scope.INGEST}
    check(new, after=day)
    with pytest.raises(NotAllowed):
        check(old, after=day)
    with pytest.raises(Conflict, match=r"ends at 2026-05-04 12:00 \(UTC\); say with --days"):
        rotate(old, old_until=now + 2 * day)
    rotate(old, old_until=now + 2 * day, expires_at=now + 90 * day)
    with pytest.raises(NotAllowed):
        check(old, after=day)  # it did not get more time by that
    with writing(engine) as session:
        auth.revoke_key(session, old.split("_")[1], by="test", now=now)
    with pytest.raises(Conflict, match="good no more"):
        rotate(old, old_until=now + day)
    with pytest.raises(NotFound):
        rotate("lw_nobody_0", old_until=now + day)


def test_a_good_key_is_remembered_for_a_moment_and_then_asked_for_again(
    engine: Engine, settings: Settings, make_key: Callable[..., str], now: datetime
) -> None:
    key = make_key(Scope.READ, expires_at=now + timedelta(days=1))
    clock = [0.0]
    ring = auth.KeyRing(engine, auth.read_pepper(settings.state_dir), clock=lambda: clock[0])
    assert ring.remembered(key, now=now) is None
    caller = ring.check(key, now=now)
    assert ring.remembered(key, now=now) == caller
    assert ring.remembered(key[:-1], now=now) is None
    assert ring.remembered(key, now=now + timedelta(days=1)) is None, "it ends on time"
    with writing(engine) as session:
        auth.revoke_key(session, key.split("_")[1], by="test", now=now)
    clock[0] += auth.REMEMBERED_S
    assert ring.remembered(key, now=now) is None
    with pytest.raises(NotAllowed):
        ring.check(key, now=now)


def test_a_key_without_a_scope_is_not_made(engine: Engine, make_key: Callable[..., str]) -> None:
    with pytest.raises(Conflict, match="at least one"):
        make_key()
    with reading(engine) as session:
        assert session.scalars(select(ApiKey)).all() == []


@pytest.mark.parametrize("source", ["", "  ", "x" * (auth.MAX_SOURCE + 1)])
def test_a_source_has_a_name_of_a_sensible_length(
    make_key: Callable[..., str], source: str
) -> None:
    with pytest.raises(Conflict, match="A source is a name"):
        make_key(Scope.READ, source=source)


def test_the_pepper_is_private_and_made_once(tmp_path: Path) -> None:
    auth.make_pepper(tmp_path)
    pepper = auth.read_pepper(tmp_path)
    auth.make_pepper(tmp_path)
    assert auth.read_pepper(tmp_path) == pepper
    assert stat.S_IMODE((tmp_path / "pepper").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["pepper"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_without_a_whole_pepper_no_key_is_checked(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    auth.make_pepper(tmp_path)
    damage(tmp_path / "pepper")
    with pytest.raises(DatabaseNotReady, match="pepper"):
        auth.read_pepper(tmp_path)


def test_a_lost_pepper_is_not_replaced_under_the_keys_it_made(
    make_world: Callable[..., Any],
) -> None:
    """With another one no key would be good any more."""
    settings, engine = make_world()
    pepper = settings.state_dir / auth.PEPPER
    now = datetime.now(UTC)
    with writing(engine) as session:
        key = auth.create_key(
            session,
            source="team",
            scopes=[Scope.READ],
            pepper=pepper.read_bytes(),
            by="me",
            now=now,
        )
    pepper.unlink()
    with pytest.raises(Conflict, match="bring it back from a backup"):
        initialise(settings)
    assert not pepper.exists()
    with writing(engine) as session:
        for known in session.scalars(select(ApiKey.id)).all():
            auth.revoke_key(session, known, by="me", now=now)
    initialise(settings)
    assert pepper.exists()
    with reading(engine) as session, pytest.raises(NotAllowed):
        auth.check_key(session, key, pepper=pepper.read_bytes(), now=now)
