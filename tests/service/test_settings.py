"""Settings: one file, the environment over it, and nothing unknown let through."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import load_settings

CONFIGS = Path(__file__).parents[2] / "configs"


def write(path: Path, **more: object) -> Path:
    path.write_text(yaml.safe_dump({"base": {"name": "none", "folder": "nowhere"}, **more}))
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*b.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_can_be_used(path: Path) -> None:
    settings = load_settings(path)
    assert settings.suites.regression.is_file()
    assert settings.suites.relations.is_file()


def test_a_variable_stands_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOREWRIGHT_SCHEDULE__AT_LEAST", "5")
    settings = load_settings(config)
    assert settings.schedule.at_least == 5
    assert settings.schedule.lease_s == 60  # its neighbour from the file is kept


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"shedule": {}}, "shedule"),
        ({"api": {"prt": 1}}, "api.prt"),
        ({"base": {"name": "x", "folder": "y", "fodler": "z"}}, "base.fodler"),
        ({"suites": {"tasks": [{"name": "x"}, {"nmae": "y"}]}}, "suites.tasks.1.nmae"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_its_file(
    tmp_path: Path, wrong: dict[str, object], key: str
) -> None:
    path = write(tmp_path / "wrong.yaml", **wrong)
    with pytest.raises(SettingsError, match=rf"wrong\.yaml.* {key}: is no setting"):
        load_settings(path)


def test_what_is_known_in_a_lists_items_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.yaml", suites={"tasks": [{"nmae": "x"}]})
    known = r"known there: name, margin, base_margin, questions, metric"
    with pytest.raises(SettingsError, match=known):
        load_settings(path)


def test_an_unknown_key_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"known there: host, port, "):
        load_settings(write(tmp_path / "wrong.yaml", api={"prt": 1}))


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("LOREWRIGHT_SHEDULE__EVERY_S", "shedule"),
        ("LOREWRIGHT_API__PRT", "api.prt"),
        ("LOREWRIGHT_API__PORT__NUMBER", "api.port.number"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str, key: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError, match=f"{variable} sets {key}, which is no setting"):
        load_settings(config)


@pytest.mark.parametrize("variable", ["LOREWRIGHT_API", "LOREWRIGHT_TRAINING__TARGET_MODULES"])
def test_a_variable_that_should_be_json_says_so(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "q_proj")
    with pytest.raises(SettingsError, match="written as JSON"):
        load_settings(config)


def test_a_wrong_value_is_named_and_not_repeated(tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.yaml", database_url=["postgresql://me:hunter2@db/facts"])
    with pytest.raises(SettingsError, match="database_url") as caught:
        load_settings(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- list\n", "1: 2\n", "a: [unclosed\n", "\x00"])
def test_a_file_that_holds_no_settings_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"broken\.yaml"):
        load_settings(path)


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--config or LOREWRIGHT_CONFIG"):
        load_settings(tmp_path / "nowhere.yaml")


def test_the_suites_are_looked_for_beside_the_settings_file(tmp_path: Path) -> None:
    path = write(tmp_path / "own.yaml", suites={"regression": "questions.yaml"})
    assert load_settings(path).suites.regression == tmp_path / "questions.yaml"


def test_settings_cannot_be_changed_after_they_were_read(config: Path) -> None:
    settings = load_settings(config)
    with pytest.raises(ValidationError, match="frozen"):
        settings.api.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ({"hub_id": "some/model"}, "revision must pin a full commit id"),
        ({"hub_id": "some/model", "revision": "main"}, "base.revision"),
        ({"hub_id": "some/model", "revision": "0123abc"}, "base.revision"),
        ({"hub_id": "some/model", "folder": "x", "revision": "0" * 40}, "exactly one of"),
    ],
)
def test_a_model_of_the_hub_is_pinned_to_a_commit(
    tmp_path: Path, base: dict[str, str], sentence: str
) -> None:
    path = write(tmp_path / "settings.yaml", base={"name": "x", **base})
    with pytest.raises(SettingsError, match=sentence):
        load_settings(path)


@pytest.mark.parametrize("name", ["SERVICE_HOST", "PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP"])
def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_setting(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"LOREWRIGHT_{name}", "tcp://10.0.0.1:8000")
    load_settings(config)
    monkeypatch.setenv("LOREWRIGHT_API__PROT", "8000")
    with pytest.raises(SettingsError, match=r"api\.prot"):
        load_settings(config)
