"""The examples of docs/routes.md work."""

import json
import tomllib
from itertools import pairwise

import pytest

from model_registry.catalog import load_catalog
from service.core.routes.route import ByContextRoute
from service.serving.routes.table import RouteTable
from service.settings import load_settings
from support.documents import ROOT, blocks, run

PAGE = "docs/routes.md"
BLOCKS = blocks(PAGE)
TABLES = [code for language, code in BLOCKS if language == "toml"]
EXAMPLES = [
    (code, shown if kind == "json" else None)
    for (language, code), (kind, shown) in pairwise([*BLOCKS, ("", "")])
    if language == "sh"
]


def routes(folder, table):
    (folder / "triptych.toml").write_text(table)
    return load_settings(folder / "triptych.toml", {}).routes


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_a_route_between_models_of_the_catalogue(tmp_path, table):
    """As it stands in the page."""
    (route,) = routes(tmp_path, table).values()
    catalog = load_catalog([])
    models = [
        name if variant is None else f"{name}:{variant}"
        for name, entry in catalog.entries.items()
        for variant in (None, *entry.spec.variants)
    ]
    assert set(route.models) <= set(models)
    if not (isinstance(route, ByContextRoute) and route.experiment):
        assert RouteTable({"r": route}, models)["r"] == route


def test_the_examples_work_in_their_order(trio):
    """Each ends with status 0, and its answer has what the page shows of it."""
    for code, shown in EXAMPLES:
        done = run(code, trio.base_url, language="sh")
        assert done.returncode == 0, done.stderr
        assert '"error":{' not in done.stdout
        if shown is not None:
            answer = json.loads(done.stdout)
            assert set(json.loads(shown)) <= set(answer), answer


def test_every_policy_has_a_table():
    """None is left out, and the page has no other."""
    shown = {tomllib.loads(table)["routes"].popitem()[1]["policy"] for table in TABLES}
    assert shown == {
        "weighted", "fallback", "by_context", "cheapest", "least_busy", "shadow", "blind", "compare"
    }  # fmt: skip
    assert (ROOT / PAGE).read_text().count("| [`") == len(shown)
