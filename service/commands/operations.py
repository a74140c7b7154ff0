"""What admins asked for over HTTP."""

import typer

from service import views
from service.commands.console import list_and_show

group = typer.Typer(no_args_is_help=True, help="What admins asked for over HTTP, and its outcome.")

list_and_show(
    group,
    "operations",
    columns=("id", "kind", "state", "requested_by", "requested_at", "reason", "error"),
    many=views.list_operations,
    one=views.show_operation,
)
