"""docs/architecture.md names every room, and every room is where it says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOM = re.compile(r"^\| `([\w/]+)/`", re.MULTILINE)
PACKAGES = ("service", "model_registry", "loadtest")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_the_page_names_every_room():
    """The table of rooms and the folders that hold modules are the same."""
    named = set(ROOM.findall((ROOT / "docs" / "architecture.md").read_text()))
    there = {
        str(path.parent.relative_to(ROOT)) for path in MODULES if "migrations" not in path.parts
    }

    assert there == named


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in MODULES if "service" in path.parts}), ids=str
)
def test_a_room_is_small_enough_to_survey(room):
    """No folder of the service holds more than 14 modules, unless it has one per model type."""
    modules = [path for path in MODULES if path.parent == room and path.stem != "__init__"]

    assert len(modules) <= 14 or room.name == "architectures"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_its_job_in_one_line(path):
    """Each module's docstring begins with one sentence on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""

    assert docstring.partition("\n")[0].endswith((".", "?", "`"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_enough_to_read(path):
    """No module is longer than 350 lines, a kernel 500: what is longer does two jobs."""
    limit = 500 if path.parent.name == "ops" else 350

    assert len(path.read_text().splitlines()) <= limit
