"""The catalogue: one TOML file per model, decoded strictly."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from model_registry.errors import CatalogError, UnknownModel, UnknownVariant
from model_registry.spec import (
    FolderSource,
    GgufSource,
    HubSource,
    ModelSpec,
    Remote,
    Variant,
    WheelSource,
)

SHIPPED_MODELS = Path(__file__).parent / "models"


class CatalogEntry(Struct, frozen=True, kw_only=True):
    """A model and the file that describes it."""

    spec: ModelSpec
    file: Path

    def names(self) -> tuple[str, ...]:
        """All names that clients can use: the id, then `id:variant` for each variant."""
        return (self.spec.id, *(f"{self.spec.id}:{variant}" for variant in self.spec.variants))


class Catalog(Struct, frozen=True, kw_only=True):
    """All models that are known, by id."""

    entries: Mapping[str, CatalogEntry]

    def find(self, name: str) -> tuple[CatalogEntry, str | None]:
        """The entry and variant that `model` or `model:variant` names.

        Raises:
            UnknownModel: with the closest ids.
            UnknownVariant: with the variants that the model has.
        """
        model, _, variant = name.partition(":")
        entry = self.entries.get(model)
        if entry is None:
            close = difflib.get_close_matches(model, self.entries, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "see: triptych models list"
            raise UnknownModel(f"no model {model!r} in the catalogue; {hint}")
        if ":" in name and variant not in entry.spec.variants:
            known = ", ".join(entry.spec.variants) or "none"
            raise UnknownVariant(f"{model} has no variant {variant!r}; it has: {known}")
        return entry, variant or None


def load_catalog(folders: Sequence[Path] = ()) -> Catalog:
    """Read the shipped catalogue and the `*.toml` files of the given folders.

    Raises CatalogError, naming file, key and fix, at the first file that is wrong.
    """
    entries: dict[str, CatalogEntry] = {}
    for folder in (SHIPPED_MODELS, *folders):
        for file in _catalog_files(folder):
            entry = read_entry(file)
            if earlier := entries.get(entry.spec.id):
                raise CatalogError(
                    f"{file}: `id` {entry.spec.id!r} is already taken by {earlier.file}; "
                    "rename one file and its `id`"
                )
            entries[entry.spec.id] = entry
    return Catalog(entries=dict(sorted(entries.items())))


def _catalog_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise CatalogError(f"{folder}: is not a folder; give one that holds *.toml files")
    yield from sorted(folder.glob("*.toml"))


def read_entry(file: Path) -> CatalogEntry:
    """Read one catalogue file. Raises CatalogError, naming file, key and fix."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
        spec = msgspec.convert(values, ModelSpec)
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"{file}: is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise CatalogError(f"{file}: {_explained(error)}") from error
    if spec.id != file.stem:
        raise CatalogError(
            f"{file}: `id` is {spec.id!r}, the file is named {file.stem!r}; "
            f"rename the file to {spec.id}.toml or change `id`"
        )
    if taken := spec.adapters.keys() & spec.variants.keys():
        raise CatalogError(
            f"{file}: `adapters` and `variants` both name {', '.join(sorted(taken))}; rename one"
        )
    if (spec.remote is None) is (spec.engine == "openai"):
        raise CatalogError(
            f'{file}: engine "openai" and the table [remote] go together; add or remove one'
        )
    tuned = {
        name: Variant(adapter=path, description=f"With the adapter {path}.")
        for name, path in spec.adapters.items()
    }
    spec = msgspec.structs.replace(spec, variants=spec.variants | tuned)
    return CatalogEntry(spec=spec, file=file)


def _explained(error: msgspec.ValidationError) -> str:
    """Explain a message of msgspec, which ends in the key's path (`$.id`), and name the fix."""
    message = str(error)
    if "unknown field" in message:
        return (
            f"{message}; remove or rename that key. Known keys: {', '.join(_known_keys(message))}"
        )
    if "missing required field" in message:
        return f"{message}; add that key"
    return f"{message}; correct that value"


def _known_keys(message: str) -> tuple[str, ...]:
    """Keys that are allowed where an unknown one was found."""
    if "$.variants" in message:
        return Variant.__struct_fields__
    if "$.remote" in message:
        return Remote.__struct_fields__
    if "$.sources" in message:
        kinds = (FolderSource, GgufSource, HubSource, WheelSource)
        return tuple(
            dict.fromkeys(name for kind in kinds for name in ("kind", *kind.__struct_fields__))
        )
    return ModelSpec.__struct_fields__
