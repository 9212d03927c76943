"""Catalogue entries as tables and as JSON."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from model_registry.architecture import LayerMix, read_layers
from model_registry.catalog import CatalogEntry
from model_registry.errors import CorruptFile, RegistryError, UnsupportedArchitecture
from model_registry.footprint import DTYPE_BYTES
from model_registry.sources.locate import find_folder, locate
from model_registry.sources.packed import read_packed_lock
from model_registry.spec import Source
from service.cli.models.context_lengths import human_tokens
from service.cli.models.location import CatalogPlace
from service.core.sizes import human_bytes

UNVERIFIED_MARK = "*"
UNVERIFIED_NOTE = (
    "* architecture numbers that no published config.json could be read to confirm; "
    "see `triptych models show`"
)
_UNKNOWN = "–"


def _layers(place: CatalogPlace, entry: CatalogEntry) -> LayerMix | None:
    """The layer mix, None where the catalogue has no numbers and no file is here."""
    try:
        return read_layers(place.architecture(entry))
    except UnsupportedArchitecture:
        return None


def mark(entry: CatalogEntry) -> str:
    """An asterisk for numbers that are not verified."""
    return "" if entry.spec.architecture_verified else UNVERIFIED_MARK


def described(place: CatalogPlace, entry: CatalogEntry) -> dict[str, Any]:
    """All that is known of a model, for JSON; `path` is null while it is not pulled."""
    layers = _layers(place, entry)
    found = place.local(entry)
    description: dict[str, Any] = msgspec.to_builtins(entry.spec)
    description |= {
        "names": entry.names(),
        "file": str(entry.file),
        "path": str(found[0].resolve()) if found else None,
        "resolved": found[1].resolved if found else None,
        "weights_sha256": found[1].weights_sha256() if found else None,
        "layers": layers.counts() if layers else None,
        "parameters": layers.parameters if layers else None,
        "servable": layers.servable if layers else None,
    }
    return description


def listing(place: CatalogPlace, entries: Iterable[CatalogEntry]) -> RenderableType:
    """One line per model."""
    table = Table(header_style="bold")
    for heading in ("model", "family"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "weights", "context"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("dtype", "variants", "sources", "here", "licence"):
        table.add_column(heading)
    unverified = False
    for entry in entries:
        spec, layers = entry.spec, _layers(place, entry)
        unverified = unverified or not spec.architecture_verified
        table.add_row(
            spec.id + mark(entry),
            spec.family,
            f"{layers.parameters / 1e6:,.1f} M" if layers else _UNKNOWN,
            human_bytes(layers.parameters * DTYPE_BYTES[spec.dtype]) if layers else _UNKNOWN,
            human_tokens(spec.context_tokens),
            spec.dtype,
            ", ".join(spec.variants) or _UNKNOWN,
            ", ".join(str(source.__struct_config__.tag) for source in spec.sources) or _UNKNOWN,
            "yes" if place.local(entry) else "no",
            spec.licence,
        )
    return Group(table, Text(UNVERIFIED_NOTE, style="dim")) if unverified else table


def card(place: CatalogPlace, entry: CatalogEntry) -> RenderableType:
    """One model, one line per property."""
    spec, layers, found = entry.spec, _layers(place, entry), place.local(entry)
    facts: list[tuple[str, str]] = [
        ("model", ", ".join(entry.names())),
        ("name", spec.name or spec.id),
        ("description", spec.description or _UNKNOWN),
        ("family", spec.family),
        ("licence", spec.licence),
        ("context", f"{spec.context_tokens:,} tokens"),
        ("chat template", spec.chat_template),
        ("engine, dtype", f"{spec.engine}, {spec.dtype}"),
    ]
    if layers:
        mix = ", ".join(f"{count} {kind}" for kind, count in layers.counts().items())
        weights_bytes = layers.parameters * DTYPE_BYTES[spec.dtype]
        facts += [
            ("layers", f"{len(layers.layers)}: {mix}"),
            ("parameters", f"{layers.parameters:,}"),
            ("weights", human_bytes(weights_bytes)),
        ]
        facts += [] if layers.servable else [("not servable", layers.refusal)]
    facts += [(_kind_of_source(source), _of_source(source)) for source in spec.sources]
    facts += [("numbers from", " ".join(spec.architecture_source.split()) or _UNKNOWN)]
    facts += [] if spec.architecture_verified else [("numbers", "not verified")]
    facts += [("catalogue file", str(entry.file))]
    if found:
        folder, lock = found
        facts += [("here", str(folder.resolve())), ("weights SHA-256", lock.weights_sha256())]
        facts += [("resolved", lock.resolved)] if lock.resolved else []
        facts += [
            (f"{spec.id}:{name}", text) for name, text in _packed_variants(place, entry).items()
        ]
    else:
        facts += [("here", f"no; run: triptych models pull {spec.id}")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    return table


def _packed_variants(place: CatalogPlace, entry: CatalogEntry) -> dict[str, str]:
    """State of the packed weights of each quantized variant of the torch engine."""
    texts = {}
    for name, variant in entry.spec.variants.items():
        if variant.quantization is None or (variant.engine or entry.spec.engine) != "torch":
            continue
        command = f"triptych quantize {entry.spec.id} --as {variant.quantization}"
        try:
            resolved = locate(entry, name, place.models_dir)
            assert resolved.packed_path is not None
            lock = read_packed_lock(Path(resolved.packed_path))
        except RegistryError as error:
            texts[name] = f"{error}; run: {command} --force"
            continue
        if lock is None:
            texts[name] = f"quantized at each load; to pack it once, run: {command}"
        elif lock.made_of(resolved):
            size = human_bytes(lock.file.size_bytes)
            texts[name] = f"packed weights of {size} in {resolved.packed_path}"
        else:
            texts[name] = f"packed weights are outdated; run: {command}"
    return texts


def _kind_of_source(source: Source) -> str:
    return f"source: {source.__struct_config__.tag}"


def _of_source(source: Source) -> str:
    values = msgspec.to_builtins(source)
    return ", ".join(f"{name} {value}" for name, value in values.items() if name != "kind")


def check_entry(place: CatalogPlace, entry: CatalogEntry) -> tuple[str, str | None]:
    """State of one model after a full check, and the problem if there is one."""
    spec = entry.spec
    try:
        if spec.architecture and (family := read_layers(spec.architecture).family) != spec.family:
            return "wrong", (
                f"{entry.file}: `family` is {spec.family!r}, its [architecture] makes it "
                f"{family!r}; correct one of them"
            )
        found = find_folder(entry, place.models_dir, full=True)
    except CorruptFile as error:
        return "corrupt", str(error)
    except RegistryError as error:
        return "wrong", f"{entry.file}: {error}"
    return ("pulled; all files match the lock" if found else "not pulled"), None
