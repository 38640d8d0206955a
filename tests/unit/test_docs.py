"""The documents against the code: what one of them names, the other has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from errors import ErrorCode
from request_options import RequestOptions
from service_version import VERSION
from settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def section(heading: str, document: str = "README.md") -> str:
    """Return a document's part under the second-level heading that has this word in it."""
    parts = re.split(r"^## +(.*)$", (ROOT / document).read_text("utf-8"), flags=re.MULTILINE)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = [text for name, text in texts.items() if heading.lower() in name.lower()]
    assert len(found) == 1, f"{document} has not one heading with {heading!r} but {len(found)}"
    return found[0]


def table(text: str) -> dict[str, list[str]]:
    """Return the further cells of each row, by every name in backticks in its first cell."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[1:])
    return rows


def test_every_setting_is_in_the_table() -> None:
    """The settings' table has every setting and no other."""
    assert set(table(section("Settings"))) == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_default_of_a_setting(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default in the table, where it is a plain value, is the setting's."""
    monkeypatch.chdir(tmp_path)  # no `.env` but this folder's, which has none
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    defaults = Settings()
    shown = table(section("Settings"))[name.upper()][0]
    if shown == "unset":
        assert getattr(defaults, name) in (None, frozenset())
    elif shown.startswith("`") and "HOST" not in shown:
        documented = Settings.model_validate({name: shown.strip("`")})
        assert getattr(documented, name) == getattr(defaults, name)


def test_every_option_is_in_the_table() -> None:
    """The options' table has every option of an upload."""
    options = set(RequestOptions().to_json()) | {"dry_run"}
    assert options <= set(table(section("HTTP")))


def test_every_error_code_is_named() -> None:
    """The README names every reason for which an image may fail."""
    named = set(re.findall(r"`(\w+)`", (ROOT / "README.md").read_text("utf-8")))
    assert set(ErrorCode) <= named


def test_every_module_is_in_the_map() -> None:
    """The module map has every top-level module and package, and nothing that isn't there."""
    named = set(re.findall(r"\b(\w+(?:\.py\b|/))", section("module", "docs/design.md")))
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    assert modules | packages <= named
    for name in named:
        assert (ROOT / name).exists() or list(ROOT.glob(f"*/{name}")), f"there is no {name}"


def test_every_command_exists() -> None:
    """Every make target and script that the README tells to run is there."""
    readme = (ROOT / "README.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z]+)", readme))
    assert {"install", "run", "demo", "test", "check"} <= named
    assert named <= targets
    scripts = set(re.findall(r"python (\w+\.py)", readme))
    assert {"server.py", "image_processor.py", "submit.py"} <= scripts
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """A link to another file of ours names one that is there, and a heading in it."""
    for name, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text("utf-8")
    ):
        target = document.parent / name if name else document
        assert target.is_file(), name
        if not anchor:
            continue  # a picture has no headings
        headings = re.findall(r"^#+ +(.*)$", target.read_text("utf-8"), re.MULTILINE)
        anchors = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
        assert anchor in anchors, anchor


def test_the_readme_leads_to_every_document() -> None:
    """Nobody has to guess what else there is to read."""
    linked = set(re.findall(r"\]\(([^)#:]+)", (ROOT / "README.md").read_text("utf-8")))
    assert {str(path.relative_to(ROOT)) for path in DOCUMENTS} - {"README.md"} <= linked


def test_changelog() -> None:
    """The changelog has something under its newest heading."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    assert re.search(r"^- \w", newest, re.MULTILINE)


def test_the_version_is_the_project_s() -> None:
    """What the service calls itself is what pyproject.toml calls it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION
