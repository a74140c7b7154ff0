"""Head moves, and what became of telling the webhook's receiver."""

from datetime import UTC, datetime

import typer

from service import views
from service.commands.console import Id, Json, context, list_and_show, show
from service.db import reading

group = typer.Typer(
    no_args_is_help=True, help="Head moves, and what became of telling the webhook's receiver."
)


list_and_show(
    group,
    "deliveries",
    columns=("id", "action", "release_id", "moved_at", "attempts", "delivered_at", "error"),
    many=views.list_deliveries,
    one=views.show_delivery,
)


@group.command("secret")
def deliveries_secret(as_json: Json = False) -> None:
    """The secret that a receiver checks signatures with; made when it is first asked for."""
    from service.webhooks import webhook_secret

    secret = webhook_secret(context.settings)
    show({"secret": secret}, as_json, lambda: [secret])


@group.command("send")
def deliveries_send(move: Id, as_json: Json = False) -> None:
    """Tell the webhook's receiver about a head move now, whatever became of it before."""
    from service.webhooks import send

    engine = context.engine()
    was_taken = send(context.settings, engine, move, now=datetime.now(UTC))
    with reading(engine) as session:
        view = views.show_delivery(session, move)
    said = "was delivered" if was_taken else f"was not delivered: {view.error}"
    show(view, as_json, lambda: [f"Head move {move} {said}."])
    if not was_taken:
        raise typer.Exit(1)
