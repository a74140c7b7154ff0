"""The whole main job as production runs it: a daemon, a plain HTTP client, and the clock.

Nobody calls refresh and nothing is replaced: the daemon's own child trains a tiny Llama, and the
gate, made lenient because random weights learn little, promotes it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
WITHIN_S = 120.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("scheduled")
    suite = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text())
    del suite["tables"]
    suite["questions"], suite["passages"] = suite["questions"][:20], suite["passages"][:4]
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    (folder / "prompts.yaml").write_text(yaml.safe_dump({"prompts": ["Hello!"], "texts": []}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    described = {
        "state_dir": str(folder / "state"),
        "base": {"name": "tiny", "folder": str(tiny_folder)},
        "api": {"port": port},
        "schedule": {"tries": 1, "every_s": 0.5, "at_least": 2},
        "training": {"views_per_fact": 4},
        "gate": {
            "forward_floor": 0.0,
            "backward_floor": 0.0,
            "regression_margin": 1.0,
            "base_margin": 1.0,
            "leakage_margin": 1.0,
            "bits_margin": 100.0,
            "base_bits_margin": 100.0,
        },
        "suites": {
            "regression": str(folder / "suite.yaml"),
            "relations": str(CONFIGS / "relations.yaml"),
            "general_prompts": str(folder / "prompts.yaml"),
        },
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


def lorewright(config: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "--config", str(config), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SCOPES = ("--scope", "ingest", "--scope", "read", "--scope", "admin")


class Api:
    """HTTP with nothing but the standard library."""

    def __init__(self, config: Path, key: str) -> None:
        self.root = f"http://127.0.0.1:{yaml.safe_load(config.read_text())['api']['port']}"
        self.key = key

    def call(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.root + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def api(config: Path) -> Iterator[Api]:
    lorewright(config, "init")
    key = lorewright(config, "keys", "create", "newsroom", *SCOPES)
    log = config.with_name("daemon.log")
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "--config", str(config), "serve"],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    api = Api(config, key["key"])
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            api.call("/readyz")
            break
        except OSError:
            assert daemon.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    yield api
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=WITHIN_S) == 0


def wait_for(api: Api, operation: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + WITHIN_S
    while operation["ended_at"] is None:
        assert time.monotonic() < deadline, operation
        time.sleep(0.2)
        operation = api.call(f"/v1/operations/{operation['id']}")
    return operation


def wait_for_refreshes(api: Api, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + WITHIN_S
    while True:
        found: list[dict[str, Any]] = api.call("/v1/refreshes")["items"]
        if len([refresh for refresh in found if refresh["outcome"] is not None]) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_posted_facts_become_the_head_by_the_clock_alone(api: Api, config: Path) -> None:
    before = api.call("/v1/head")
    answer = api.call(
        "/v1/facts",
        [
            {"statement": "Orlan Vess is the mayor of Tolmar.", "external_id": "a"},
            {"statement": ""},
            {"statement": "Mira Zun leads the choir of Bregal.", "external_id": "b"},
        ],
    )
    assert [item["outcome"] for item in answer["items"]] == ["stored", "refused", "stored"]
    (refresh,) = wait_for_refreshes(api, 1)
    assert refresh["outcome"] == "promoted", refresh
    assert refresh["facts"] == 2
    head = api.call("/v1/head")
    assert head != before
    fact = api.call(f"/v1/facts/{answer['items'][0]['id']}")
    assert fact["state"] in ("live", "quarantined")
    assert fact["memberships"][0]["adapter_id"] == refresh["adapter_id"]

    # The same facts once more change nothing, and start nothing.
    again = api.call("/v1/facts", {"statement": "Orlan Vess is the mayor of Tolmar.",
                                   "external_id": "a"})  # fmt: skip
    assert again["items"][0]["outcome"] == "duplicate"

    # The next batch stands on the first one's release, and one request takes the first one out.
    api.call("/v1/facts", [{"statement": f"Lake {name} lies in Ardun."} for name in ("Ux", "Yl")])
    second, first = wait_for_refreshes(api, 2)
    assert first["id"] == refresh["id"]
    assert second["outcome"] == "promoted", second
    why = {"reason": "a wrong source"}
    done = wait_for(api, api.call("/v1/rollbacks", {"adapter": first["adapter_id"], **why}))
    assert done["state"] == "done", done
    assert done["result"]["taken_out"] == [first["adapter_id"]]
    (move,) = api.call(f"/v1/releases/{done['result']['to_release']}")["moves"]
    assert (move["reason"], move["by"].partition(" ")[0]) == ("a wrong source", "newsroom")
    assert api.call(f"/v1/facts/{answer['items'][0]['id']}")["state"] == "rolled_back"
    left = api.call("/v1/head")
    assert left["release"]["adapters"] == [second["adapter_id"]]

    # What it cannot do it says, and goes on.
    refused = wait_for(api, api.call("/v1/rollbacks", {"adapter": first["adapter_id"], **why}))
    assert refused["state"] == "failed"
    assert "is not in the head" in refused["error"]

    # Last, nothing of a fact is left, though its adapter is in the head.
    lake = api.call("/v1/facts?limit=1")["items"][0]["id"]
    done = wait_for(api, api.call("/v1/erasures", {"facts": [lake], **why}))
    assert done["state"] == "done", done
    assert api.call(f"/v1/facts/{lake}")["state"] == "erased"
    files = [path for path in config.with_name("state").rglob("*") if path.is_file()]
    assert not [path for path in files if b"Lake Yl" in path.read_bytes()]
    assert lorewright(config, "fsck")["problems"] == []
