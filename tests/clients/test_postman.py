"""The Postman collection against a fresh service, by newman."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.outside_tools import npm_file, program
from tests.service import ROOT, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database

COLLECTION: dict[str, Any] = json.loads((ROOT / "postman_collection.json").read_bytes())
RUN_SECONDS = 110
KEY = "a key"
# Whoever is quick cancels what is not finished; else it is deleted, and there is no end to wait for.
MAY_BE_LEFT_OUT = {"Wait for its end"}


def calls(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every call of a collection, folder by folder."""
    for item in items:
        yield from calls(item["item"]) if "item" in item else [item]


NAMES = [call["name"] for call in calls(COLLECTION["item"])]


def newman(folder: Path, service: Service, working_dir: Path, *arguments: str) -> None:
    """Run the collection as from the project's folder; every test in it has to hold."""
    report = folder / "newman.json"
    run = subprocess.run(
        [
            *(program("node"), str(npm_file("newman/bin/newman.js"))),
            *("run", "postman_collection.json", "--env-var", f"base_url={service.url}"),
            *("--working-dir", str(working_dir), *arguments, "--color", "off"),
            *("--reporters", "cli,json", "--reporter-json-export", str(report)),
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(report.read_bytes())["run"]
    executed = {execution["item"]["name"] for execution in found["executions"]}
    assert set(NAMES) - executed <= MAY_BE_LEFT_OUT
    assert found["stats"]["assertions"]["total"] >= len(NAMES)


def state_of_test_csv(service: Service, **options: Any) -> str:
    """Return how the upload of test.csv ended."""
    requests = service.get("/requests", **options).json()["requests"]
    (state,) = (each["status"] for each in requests if each["products"] == 8)
    return str(state)


def test_every_call_is_tested() -> None:
    """Each call has a test of its answer and a name of its own, each folder says what it is for."""
    assert {variable["key"] for variable in COLLECTION["variable"]} == {"base_url", "api_key"}
    assert all(folder["description"] for folder in COLLECTION["item"])
    assert len(NAMES) == len(set(NAMES))  # a call that repeats itself is found by its name
    for call in calls(COLLECTION["item"]):
        (script,) = (each["script"] for each in call["event"] if each["listen"] == "test")
        assert "pm.test(" in "\n".join(script["exec"]), call["name"]


def test_newman(new_database: Callable[[], Database], tmp_path: Path) -> None:
    """Every test in it holds; with the service's port in test.csv, all its images are compressed."""
    with Service(tmp_path, new_database()) as service:
        csv = (ROOT / "test.csv").read_text("utf-8")
        port = urlsplit(service.url).port
        (tmp_path / "test.csv").write_text(csv.replace(":8000/", f":{port}/"), "utf-8")
        newman(tmp_path, service, tmp_path)
        assert state_of_test_csv(service) == "completed"


def test_newman_with_a_key_on_another_port(
    new_database: Callable[[], Database], tmp_path: Path
) -> None:
    """Every test in it holds, too, where test.csv is taken as it stands and leads elsewhere."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with Service(tmp_path, new_database(), API_KEYS=digest) as service:
        newman(tmp_path, service, ROOT, "--env-var", f"api_key={KEY}")
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert state_of_test_csv(service, headers=bearer) == "failed"
