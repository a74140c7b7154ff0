"""The `lorewright` command: puts the parts of `service.commands` together.

Only these print. What loads a model is imported inside the command that needs it, so that `serve`
never imports torch. Exit codes: 0 done, 1 refused or failed (one sentence on stderr says why), 2
wrong usage or settings, 3 a refresh or removal after which the head stays, 4 another refresh or
rebase runs, 130 stopped by a signal.
"""

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError
from service.commands import (
    adapters,
    audit,
    deliveries,
    erasures,
    facts,
    keys,
    learning,
    operations,
    pins,
    releases,
    rollback,
    state,
)
from service.commands.console import context, err
from service.errors import BUSY, LeaseHeld, ServiceError, SettingsError, Stopped
from service.settings import CONFIG_VARIABLE, DEFAULT_CONFIG

STOPPED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a language model's knowledge current, and takes any of it back.",
)
for command in (
    state.init,
    state.settings,
    state.serve,
    learning.refresh,
    learning.ask,
    rollback.rollback,
    releases.export,
    state.gc,
    state.fsck,
    state.backup,
    state.restore,
    learning.demo,
):
    app.command()(command)
for name, group in {
    "facts": facts.group,
    "refreshes": learning.group,
    "adapters": adapters.group,
    "releases": releases.group,
    "deliveries": deliveries.group,
    "erasures": erasures.group,
    "operations": operations.group,
    "pins": pins.group,
    "keys": keys.group,
    "audit": audit.group,
    "db": state.group,
}.items():
    app.add_typer(group, name=name)


def _version(is_asked: bool) -> None:
    if is_asked:
        print(version("lorewright"))
        raise typer.Exit


@app.callback()
def choose_settings(
    config: Annotated[
        Path, typer.Option(envvar=CONFIG_VARIABLE, help="The settings file.")
    ] = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done.")] = False,
    _: Annotated[
        bool, typer.Option("--version", help="Print it and end.", is_eager=True, callback=_version)
    ] = False,
    by: Annotated[
        str | None, typer.Option(hidden=True, help="Whom the daemon carries this out for.")
    ] = None,
) -> None:
    context.config = config
    context.by = by or context.by
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )


#: As torch says it, and Python of a thread.
NO_MEMORY = ("allocate memory", "can't start new thread")


def main() -> None:
    """Run the command; an error that was foreseen is one sentence and an exit code."""
    try:
        _run()
    except MemoryError:
        # Nor is there any for a console, or to end in order: each would want some more.
        os.write(2, b"There is not enough memory for this; free some, and give it again.\n")
        os._exit(1)


def _run() -> None:
    try:
        app()
    except Stopped as error:
        _fail(str(error), STOPPED)
    except SettingsError as error:
        _fail(str(error), 2)
    except LeaseHeld as error:
        _fail(str(error), BUSY)
    except (ServiceError, AdapterError) as error:
        _fail(str(error), 1)
    except SQLAlchemyError as error:
        _fail(f"The database failed: {getattr(error, 'orig', None) or error}", 1)
    except OSError as error:
        _fail(f"The system refused: {error}.", 1)
    except RuntimeError as error:
        if not any(said in str(error) for said in NO_MEMORY):
            raise
        raise MemoryError from error
    finally:
        context.close()


def _fail(sentence: str, code: int) -> None:
    err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
