"""The guide for operators says what the code does: its keys, its example, its commands."""

import re
import shlex
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from model_registry.architecture import MODEL_TYPES
from model_registry.spec import (
    FolderSource,
    GgufSource,
    HubSource,
    ModelSpec,
    Remote,
    Variant,
    WheelSource,
)
from service.cli.main import main

GUIDE = (Path(__file__).parents[2] / "docs" / "add-a-model.md").read_text()
TABLES = {
    "## Keys of a model": ModelSpec,
    "## Keys of a variant": Variant,
    "## Keys of a remote server": Remote,
    '### `kind = "folder"`': FolderSource,
    '### `kind = "gguf"`': GgufSource,
    '### `kind = "hub"`': HubSource,
    '### `kind = "wheel"`': WheelSource,
}
(EXAMPLE,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = "".join(re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)).splitlines()


def defaults(struct):
    """Keys of a struct with their defaults as JSON."""
    return {
        field.name: "required" if field.required else as_json(field)
        for field in msgspec.structs.fields(struct)
    }


def as_json(field):
    made = field.default_factory is not msgspec.NODEFAULT
    return msgspec.json.encode(field.default_factory() if made else field.default).decode()


@pytest.mark.parametrize("heading", TABLES)
def test_tables_list_every_key_with_its_default(heading):
    """A key added to the code is missing in no table, and none lists what is not read."""
    section = GUIDE.split(heading + "\n")[1].split("\n#")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", section, re.MULTILINE))

    assert rows == defaults(TABLES[heading])


def test_every_kind_of_source_has_its_section():
    """Each source that the catalogue takes is described."""
    kinds = {one.__struct_config__.tag for one in TABLES.values()} - {None}

    assert set(re.findall(r'### `kind = "(\w+)"`', GUIDE)) == kinds


def test_types_are_those_that_can_be_read():
    """The list of model types is the code's."""
    section = GUIDE.split("## What can be served\n")[1].split("\n#")[0]

    assert sorted(set(re.findall(r"`(\w+)`", section)) - {"model_type"}) == sorted(MODEL_TYPES)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example in the folder that the guide's commands name."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-models"
    folder.mkdir()
    (folder / f"{tomllib.loads(EXAMPLE)['id']}.toml").write_text(EXAMPLE)


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if not re.search(r"models pull|quantize|serve", line)]
)
def test_commands_work_with_the_example(example, command):
    """The guide's commands run as they stand; those that fetch or serve are tested elsewhere."""
    name, *words = shlex.split(command)
    result = CliRunner().invoke(main, words)

    assert name == "triptych"
    assert result.exit_code == 0, result.output
    assert "my-smollm2" in result.output


def test_commands_that_fetch_and_serve_take_these_options():
    """The words of the other commands are known to the command line."""
    others = [line for line in COMMANDS if re.search(r"models pull|quantize|serve", line)]

    assert others
    for line in others:
        words = shlex.split(line)[1:]
        path = words[: 2 if words[0] == "models" else 1]
        shown = CliRunner().invoke(main, [*path, "--help"])
        assert all(word in shown.output for word in words if word.startswith("--"))
