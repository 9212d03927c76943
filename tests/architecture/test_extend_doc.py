"""docs/extend.md names files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = re.compile(r"`((?:service|model_registry|loadtest|tests)/[\w/.]*)`")
NAMED = sorted(set(PATH.findall((ROOT / "docs" / "extend.md").read_text())))


@pytest.mark.parametrize("path", [path for path in NAMED if "NAME" not in path])
def test_a_file_that_the_page_names_exists(path):
    """Every path of a walk is in the tree."""
    assert (ROOT / path).exists()
