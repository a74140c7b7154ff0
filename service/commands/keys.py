"""API keys."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from service import auth, views
from service.auth import Scope
from service.commands.console import Json, context, out, plain, show
from service.db import reading, writing

group = typer.Typer(no_args_is_help=True, help="API keys.")


@group.command("create")
def keys_create(
    source: Annotated[str, typer.Argument(help="Who will send with it, such as a team's name.")],
    scope: Annotated[list[Scope], typer.Option(help="Give it several times for several.")],
    days: Annotated[int | None, typer.Option(min=1, help="How long it is good.")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key and print it. It cannot be shown again."""
    now = datetime.now(UTC)
    with writing(context.engine()) as session:
        key = auth.create_key(
            session,
            source=source,
            scopes=set(scope),
            pepper=auth.read_pepper(context.settings.state_dir),
            by=context.by,
            now=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
    show({"key": key, "source": source}, as_json, lambda: [key])


@group.command("list")
def keys_list(as_json: Json = False) -> None:
    """All keys, without their secrets."""
    with reading(context.engine()) as session:
        keys = [views.KeyView.model_validate(key) for key in auth.list_keys(session)]

    def render() -> Sequence[Any]:
        from service.tables import table_of

        columns = ("id", "source", "scopes", "created_at", "expires_at", "revoked_at")
        return [table_of(keys, columns, title="keys")]

    show([plain(key) for key in keys], as_json, render)


@group.command("rotate")
def keys_rotate(
    key: Annotated[str, typer.Argument(help="The id of the key to be replaced.")],
    keep_hours: Annotated[
        float, typer.Option(min=0, max=24 * 365, help="How long the old one stays good.")
    ] = 24,
    days: Annotated[int | None, typer.Option(min=1, help="How long the new one is good.")] = None,
    as_json: Json = False,
) -> None:
    """Make and print a key for the same source and scopes; the old one ends a while later."""
    now = datetime.now(UTC)
    until = now + timedelta(hours=keep_hours)
    with writing(context.engine()) as session:
        new = auth.rotate_key(
            session,
            key,
            pepper=auth.read_pepper(context.settings.state_dir),
            old_until=until,
            by=context.by,
            now=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
    show({"key": new, "replaces": key, "until": until.isoformat()}, as_json, lambda: [new])


@group.command("revoke")
def keys_revoke(key: Annotated[str, typer.Argument(help="The key's id.")]) -> None:
    """Make a key useless: at once, but for a daemon that used it in the last second."""
    with writing(context.engine()) as session:
        auth.revoke_key(session, key, by=context.by, now=datetime.now(UTC))
    out.print(f"Key {key} is revoked.")
