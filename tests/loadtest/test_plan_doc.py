"""docs/load-test.md says of each key of a plan what the code says."""

import ast
import itertools
import re
from pathlib import Path

import msgspec
import pytest

from loadtest import plan
from loadtest.plan import Plan, load_plan

PAGE = Path("docs/load-test.md")
TABLES = {"": plan.Plan} | {
    name: getattr(plan, name.title()) for name in ("arrivals", "sampling", "slo", "validity")
}


def described(struct: type) -> dict[str, str]:
    """The docstring below each field of a Struct of the plan's module."""
    module = ast.parse(Path(plan.__file__).read_text())
    (body,) = (
        node.body
        for node in module.body
        if isinstance(node, ast.ClassDef) and node.name == struct.__name__
    )
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def keys() -> list[tuple[str, str, str]]:
    """Key, default and meaning of everything that a plan file may hold, tables last."""
    rows = []
    for table, struct in TABLES.items():
        meanings = described(struct)
        for field in msgspec.structs.fields(struct):
            if not table and field.name in TABLES:
                continue
            default = "required"
            if field.default is not msgspec.NODEFAULT:
                default = f"`{msgspec.json.encode(field.default).decode()}`".replace("null", "none")
            rows.append((f"{table}.{field.name}".lstrip("."), default, meanings[field.name]))
    return rows


def test_the_page_lists_every_key_with_default_and_meaning() -> None:
    """The rows of the reference are those of the plan's Structs, in their order and words."""
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| (.*?) \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)

    assert rows == keys()


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_plans_on_the_page_are_valid(tmp_path: Path, example: str) -> None:
    """What the page shows decodes as a plan."""
    (tmp_path / "plan.toml").write_text(example)

    assert isinstance(load_plan(tmp_path / "plan.toml"), Plan)
