"""docs/experiments.md names every key of a plan."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from service.core.experiments.plan import Arm, Conversation, Measure, Plan, Probes, Prompts

PAGE = (Path(__file__).parents[4] / "docs" / "experiments.md").read_text()
FOUND = re.findall(r"^\| `(\w+)` \|(.*)$", PAGE, re.MULTILINE)
ROWS = dict(reversed(FOUND))  # of two rows of a name, the first
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Plan)}


@pytest.mark.parametrize("key", Plan.__struct_fields__)
def test_every_key_has_a_row(key):
    """With its default where it is a number or a truth value."""
    default = DEFAULTS[key]
    if isinstance(default, int | float):
        assert f"`{str(default).lower()}`" in ROWS[key]
    assert key in ROWS


@pytest.mark.parametrize("kind", get_args(Prompts), ids=lambda kind: kind.__name__)
def test_every_kind_of_prompts_has_a_row_with_its_keys(kind):
    """A key that is not named is not found."""
    row = ROWS[kind.__struct_config__.tag]

    assert all(f"`{key}`" in row for key in kind.__struct_fields__)


@pytest.mark.parametrize(
    ("row", "kind"), [("arms", Arm), ("conversation", Conversation), ("probes", Probes)]
)
def test_the_keys_of_a_table_are_named(row, kind):
    """In the row of the table."""
    assert all(f"`{key}`" in ROWS[row] for key in kind.__struct_fields__)


@pytest.mark.parametrize("measure", get_args(Measure))
def test_every_measure_is_explained(measure):
    """In the plan's row, and in a row of its own."""
    assert f"`{measure}`" in ROWS["measures"]
    assert re.search(rf"^\| (`\w+`, )?`{measure}`[ ,|]", PAGE, re.MULTILINE)
