"""Settings: strict, documented, frozen."""

import re
from pathlib import Path

import msgspec
import pytest

from service.core.errors import ConfigError
from service.core.routes.route import FallbackRoute, WeightedRoute
from service.settings import Settings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_setting_is_documented_with_its_default():
    """docs/configuration.md holds each setting and its true default."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", PAGE.read_text(), re.MULTILINE)
    values = msgspec.structs.asdict(Settings())
    tables = {name: value for name, value in values.items() if isinstance(value, msgspec.Struct)}
    keys = {name: value for name, value in values.items() if name not in tables}
    for table, struct in tables.items():
        keys |= {f"{table}.{name}": getattr(struct, name) for name in struct.__struct_fields__}

    assert {name: msgspec.json.encode(value) for name, value in keys.items()} == {
        name: msgspec.json.encode(msgspec.json.decode(default)) for name, default in rows
    }


def test_the_documented_routes_are_valid(tmp_path):
    """The routes shown in the documentation decode to one of each policy."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "routes.toml").write_text(example)

    routes = load_settings(tmp_path / "routes.toml", {}).routes

    assert {"everyday": WeightedRoute, "careful": FallbackRoute} == {
        name: type(route) for name, route in routes.items()
    }


def test_an_option_overrides_the_file(tmp_path):
    """What is given on the command line wins."""
    (tmp_path / "triptych.toml").write_text("port = 9000\nslots = 4\n")

    settings = load_settings(tmp_path / "triptych.toml", {"port": 9001})

    assert settings.port == 9001
    assert settings.slots == 4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 9000", "prot"),
        ("port = 70000", "port"),
        ("port = ", "TOML"),
        ("slots = 0", "slots"),
        ("torch.kernels = 'fast'", r"torch\.kernels"),
        ("[torch]\nmax_itl_ms = 0", r"torch\.max_itl_ms"),
        ("torch.thread = 1", "thread"),
        ("memory_budget = '8G'", "memory_budget: '8G' is not a size"),
        ("memory_budget = 0", "leaves no memory"),
        ("memory_budget = -5", "leaves no memory"),
        ("memory_budget = 1.5", "memory_budget"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, named):
    """An error names the file and what is wrong in it."""
    (tmp_path / "triptych.toml").write_text(text)

    with pytest.raises(ConfigError, match=rf"triptych\.toml.*{named}"):
        load_settings(tmp_path / "triptych.toml", {})


@pytest.mark.parametrize(
    ("given", "count"), [("8GiB", 8 * 2**30), (4096, 4096), ("4096", 4096), ("auto", None)]
)
def test_a_budget_is_a_size_or_bytes_or_auto(given, count):
    """Options come as text, so bytes may be text too."""
    assert load_settings(None, {"memory_budget": given}).memory_budget_bytes == count


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, 100), ({"max_bytes": "0"}, 0), ({"max_bytes": 70}, 70), ({"max_bytes": "4KiB"}, 1000)],
)
def test_the_prefix_cache_takes_a_part_of_the_budget(given, count):
    """A tenth by default, and never more than there is."""
    settings = load_settings(None, {"prefix_cache": given})

    assert settings.prefix_cache.bytes_of(1000) == count


def test_the_prefix_cache_can_be_switched_off():
    """Whatever its size would be."""
    settings = load_settings(None, {"prefix_cache": {"enabled": False, "max_bytes": "1GiB"}})

    assert settings.prefix_cache.bytes_of(2**40) == 0


@pytest.mark.parametrize("given", ["much", "-1", -1])
def test_a_cap_that_is_no_size_is_refused(given):
    """The error names the key."""
    with pytest.raises(ConfigError, match="max_bytes"):
        load_settings(None, {"prefix_cache": {"max_bytes": given}})


def test_a_missing_file_is_refused(tmp_path):
    """A configuration file that is not there is an error, not a default."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.toml", {})
