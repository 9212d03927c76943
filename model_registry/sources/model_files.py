"""The files of a model: safetensors, configuration, tokenizer, template."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from model_registry.errors import CorruptFile, UnsupportedArchitecture
from model_registry.sources.file_names import check_file_name

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What PEFT writes for an adapter."""
GGUF_NAME = "source.gguf"
"""The file that the weights were converted from."""
_BESIDE_WEIGHTS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
    }
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def files_beside_weights(names: Collection[str]) -> list[str]:
    """The configuration, tokenizer and template files among the names; never code."""
    return sorted(_BESIDE_WEIGHTS & set(names))


def weight_files(where: str, names: Collection[str], index: bytes | None) -> list[str]:
    """The safetensors files of a model: those that its index names, else `model.safetensors`.

    Args:
        where: repository or folder, for the error.
        names: the files that are there.
        index: content of `model.safetensors.index.json`, None if there is none.

    Raises:
        UnsupportedArchitecture: no safetensors; says so of pickle files, which are never loaded.
        CorruptFile: the index is malformed, or names a file that is not there or lies elsewhere.
    """
    if index is None:
        if SINGLE in names:
            return [SINGLE]
        pickles = sorted(name for name in names if name.endswith(_PICKLES))
        found = f"only pickle files ({pickles[0]}), which can run code and are never loaded"
        raise UnsupportedArchitecture(
            f"{where}: has no {SINGLE}, {found if pickles else 'nor an index of several'}; "
            "convert the weights to safetensors"
        )
    try:
        wanted = sorted(set(msgspec.json.decode(index, type=_Index).weight_map.values()))
    except msgspec.MsgspecError as error:
        raise CorruptFile(f"{where}: {INDEX}: {error}") from error
    for name in wanted:
        check_file_name(f"{where}: {INDEX}", name)
        if name not in names or not name.endswith(".safetensors"):
            raise CorruptFile(f"{where}: {INDEX} names {name!r}, which does not exist")
    return wanted


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def folder_files(folder: Path) -> list[str]:
    """Names of all files of the model in a local folder. Raises as `weight_files` does."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if "config.json" not in names:
        raise CorruptFile(f"{folder}: has no config.json; it is not a model folder")
    index = (folder / INDEX).read_bytes() if INDEX in names else None
    extra = [name for name in (INDEX, GGUF_NAME) if name in names]
    return files_beside_weights(names) + extra + weight_files(str(folder), names, index)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder; `auto_map`, which points to code, is left out, never followed.

    Raises CorruptFile if it is missing, cannot be read, or is no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorruptFile(f"{path}: is missing; it is not a model folder") from None
    except OSError as error:
        raise CorruptFile(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CorruptFile(f"{path}: is not JSON: {error}") from error
    except RecursionError:
        raise CorruptFile(f"{path}: is nested too deeply") from None
    if not isinstance(config, dict):
        raise CorruptFile(f"{path}: is not a JSON object")
    config.pop("auto_map", None)
    return config
