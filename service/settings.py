"""One frozen settings object from one YAML file, the environment over the file.

`LOREWRIGHT_API__PORT=9000` stands over `api: {port: ...}`. A key that nobody knows, in the file or
in the environment, is refused with its path: a misspelt setting must not be a silent default.
"""

import os
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import Field, HttpUrl, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from adapters.config import BaseConfig, GateConfig, Section, SuitesConfig, TrainingConfig
from service.errors import SettingsError

PREFIX = "LOREWRIGHT_"
CONFIG_VARIABLE = "LOREWRIGHT_CONFIG"  #: names the file itself, so it is no key of it
DEFAULT_CONFIG = Path("configs/smollm2-135m.yaml")

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class LogForm(StrEnum):
    TEXT = "text"
    JSON = "json"


class ApiSettings(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8765
    allow_public_bind: bool = False  #: needed for any host but loopback; there is no TLS in here
    max_body_bytes: Count = 8 << 20
    head_deadline_s: Seconds = 10  #: for a request's head; a connection without one ends then
    body_deadline_s: Seconds = 30
    limit_concurrency: Count = 256  #: requests at once; what comes beyond is asked to come again
    drain_s: Count = 10  #: how long open requests may take once the daemon was asked to end


class ScheduleSettings(Section):
    every_s: Seconds = 300  #: how often the clock looks whether a refresh is due
    at_least: Count = 8  #: facts that must wait; fewer can hardly pass the gate (docs/gate.md)
    at_most: Count = 64  #: facts in one batch; where more wait, the others wait on
    #: New ones of one source, so that a flood leaves room for the others; None: all. A source that
    #: sends alone must be allowed at_least.
    at_most_of_source: Count | None = None
    #: A refresh that shows no sign of life for so long is taken over.
    lease_s: Annotated[float, Field(gt=0, le=1800)] = 120
    #: Without a step or an answer for so long, a refresh counts as hung: it renews its lease no
    #: more, and the daemon that started it kills it.
    stall_s: Seconds = 3600
    attempts: Count = 3  #: refreshes that fail or die before the facts at fault are looked for
    #: Verdicts a fact may be left open by, unlearned or undecided, before that is final.
    tries: Count = 2
    stop_within_s: Seconds = 30  #: how long a refresh may take to end once it was asked to


class FactSettings(Section):
    #: What the base cannot read beside its view is refused as well, counted in its tokens.
    max_statement_bytes: Count = 20_000
    max_items: Count = 10_000  #: in one request
    #: Of all requests together; what comes beyond is asked to come again in a while.
    max_waiting: Count = 20_000
    #: What a source may send on average; None: any number. Each daemon counts for itself.
    per_minute_of_source: Count | None = None
    #: A fact with one of these values of `trust` waits until an admin approves it.
    hold_trust: tuple[str, ...] = ("low", "unverified")
    #: So does one whose `confidence` is below; one that gives none does not.
    hold_confidence_below: Annotated[float, Field(ge=0, le=1)] = 0.0


class StorageSettings(Section):
    #: Earlier heads whose composed models stay at hand beside the head's; the others are composed
    #: anew when somebody goes back to them. Those of pinned releases stay in any case.
    keep_snapshots: Annotated[int, Field(ge=0)] = 2
    #: What must stay free for work to begin: with less, facts are refused and nothing is trained.
    reserve_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    collect_after_refresh: bool = True  #: whether what nobody needs is removed without asking


class WebhookSettings(Section):
    url: HttpUrl | None = None  #: is told of every head move; None: nobody is
    timeout_s: Seconds = 10
    every_s: Seconds = 10  #: how often the daemon looks for head moves to follow and to tell
    give_up_after_s: Seconds = 86_400  #: a move as old as this is not delivered any more


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__"
    )

    state_dir: Path = Path("state")
    database_url: str | None = None  #: default: the SQLite file lorewright.db in state_dir
    api: ApiSettings = ApiSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    facts: FactSettings = FactSettings()
    storage: StorageSettings = StorageSettings()
    webhook: WebhookSettings = WebhookSettings()
    log: LogForm = LogForm.TEXT  #: what the daemon writes: lines to read, or a JSON object each
    base: BaseConfig
    training: TrainingConfig = TrainingConfig()
    gate: GateConfig = GateConfig()
    suites: SuitesConfig = SuitesConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return EnvSettingsSource(settings_cls), init_settings

    @property
    def url(self) -> str:
        """Where the database is."""
        return self.database_url or f"sqlite:///{self.state_dir.absolute() / 'lorewright.db'}"


def load_settings(path: Path) -> Settings:
    """Read the file, lay the environment over it, and resolve the suites' paths.

    Raises SettingsError that names the file or variable, the key's path and what is wrong.
    """
    described = _read(path)
    _refuse_unknown_variables(os.environ)
    try:
        settings = Settings(**described)
    except ValidationError as error:
        raise SettingsError(_sentence(path, error)) from error
    except UnreadableVariable as error:
        raise SettingsError(
            f"A {PREFIX}... variable cannot be read: {error}. A list or a whole section is "
            "written as JSON."
        ) from error
    folder = path.parent.absolute()
    paths = {
        key: folder / path
        for key, path in settings.suites.__dict__.items()
        if isinstance(path, Path)
    }
    return settings.model_copy(update={"suites": settings.suites.model_copy(update=paths)})


def _read(path: Path) -> dict[str, Any]:
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"The settings file {path} cannot be read: {error.strerror}. Name another with "
            f"--config or {CONFIG_VARIABLE}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not YAML: {error}") from error
    if not isinstance(described, dict) or not all(isinstance(key, str) for key in described):
        raise SettingsError(f"The settings file {path} must hold keys and values.")
    return described


#: What Kubernetes sets in every container of a namespace with a Service of this name.
FROM_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_HOST|(SERVICE_)?PORT(_[A-Z0-9_]+)?)")


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    for variable in environment:
        is_other = variable == CONFIG_VARIABLE or FROM_KUBERNETES.fullmatch(variable)
        if not variable.startswith(PREFIX) or is_other:
            continue
        path = variable.removeprefix(PREFIX).lower().split("__")
        for at, key in enumerate(path):
            known = _keys_below(path[:at])
            if key not in known:
                raise SettingsError(
                    f"The environment variable {variable} sets {'.'.join(path[: at + 1])}, which "
                    f"is no setting. Known there: {', '.join(known) or 'nothing below it'}."
                )


def _keys_below(path: Sequence[object]) -> list[str]:
    """The settings that there are under a path; none below a single value."""
    model: Any = Settings
    for key in path:
        if isinstance(key, int):  # a place in a list: what all its items are
            model = next(iter(get_args(model)), None)
        else:
            field = getattr(model, "model_fields", {}).get(key)
            model = None if field is None else field.annotation
    return list(getattr(model, "model_fields", {}))


def _sentence(path: Path, error: ValidationError) -> str:
    """Every mistake with its dotted key. The value itself is not repeated: it may be a secret."""
    lines = []
    for mistake in error.errors():
        key = ".".join(map(str, mistake["loc"])) or "the file as a whole"
        what = mistake["msg"]
        if mistake["type"] == "extra_forbidden":
            what = f"is no setting (known there: {', '.join(_keys_below(mistake['loc'][:-1]))})"
        lines.append(f"{key}: {what}")
    return f"The settings of {path} (and {PREFIX}... variables) cannot be used: {'; '.join(lines)}."
