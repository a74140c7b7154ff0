"""The LoRA weights of each batch."""

from collections.abc import Iterator

import typer

from service import views
from service.commands.console import Id, Json, Reason, checked_reason, context, list_and_show, show

group = typer.Typer(no_args_is_help=True, help="The LoRA weights of each batch.")


list_and_show(
    group,
    "adapters",
    columns=("id", "refresh_id", "outcome", "in_head", "facts", "trained_on", "created_at"),
    many=views.list_adapters,
    one=views.show_adapter,
)


@group.command("promote")
def adapters_promote(
    adapter: Id,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Let in, on your word, an adapter of which the gate could not tell."""
    from service.promotion import let_in

    done = let_in(
        context.settings,
        context.engine(),
        adapter,
        by=context.by,
        reason=checked_reason(reason),
    )

    def lines() -> Iterator[str]:
        yield f"The head moved from release {done.from_release} to {done.to_release}."
        for fact, outcome in done.facts.items():
            yield f"Fact {fact}: {outcome}."

    show(done, as_json, lambda: list(lines()))
