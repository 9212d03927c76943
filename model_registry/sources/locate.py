"""Find a model's files on this machine; no network."""

import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path

import msgspec

from model_registry.architecture import read_layers
from model_registry.catalog import CatalogEntry
from model_registry.errors import NotPulled, UnknownVariant, UnsupportedArchitecture
from model_registry.sources.lock import (
    LOCK_NAME,
    Lock,
    lock_files,
    read_lock,
    unreadable_is_corrupt,
    untouched,
    verify,
    write_lock,
)
from model_registry.sources.model_files import ADAPTER_FILES, folder_files, read_config
from model_registry.sources.packed import packed_folder
from model_registry.spec import FolderSource, ResolvedModel

_FOLDER_HASHES = ".folder-hashes"


def locate(entry: CatalogEntry, variant: str | None, models_dir: Path) -> ResolvedModel:
    """The model as an engine loads it: local folder and hash of its weights.

    Files are checked against their lock by size and time; those that were touched are hashed.

    Raises:
        UnknownVariant: the model has no such variant.
        NotPulled: none of its sources is on this machine, or the variant's adapter is not.
        CorruptFile: files are missing, cannot be read, or differ from their lock.
        UnsupportedArchitecture: a model type that cannot be served.
    """
    spec = entry.spec
    if variant is not None and variant not in spec.variants:
        known = ", ".join(spec.variants) or "none"
        raise UnknownVariant(f"{spec.id} has no variant {variant!r}; it has: {known}")
    if spec.engine in ("echo", "openai"):
        return ResolvedModel(spec=spec, variant=variant, path="", weights_sha256=None)
    found = find_folder(entry, models_dir)
    if found is None:
        raise NotPulled(f"{spec.id} is not on this machine; run: triptych models pull {spec.id}")
    folder, lock = found
    layers = read_layers(read_config(folder))
    if not layers.servable:
        raise UnsupportedArchitecture(f"{spec.id}: {layers.refusal}")
    quantized = variant and spec.variants[variant].quantization
    base = ResolvedModel(
        spec=spec,
        variant=variant,
        path=str(folder),
        weights_sha256=lock.weights_sha256(),
        packed_path=str(packed_folder(models_dir, spec.id, variant)) if quantized else None,
    )
    adapter = spec.variants[variant].adapter if variant else None
    return base if adapter is None else _with_adapter(base, entry, adapter, models_dir)


def local_path(entry: CatalogEntry, path: str) -> Path:
    """A path of a catalogue file; a relative one is relative to that file."""
    return (entry.file.parent / path).resolve()


@unreadable_is_corrupt()
def find_folder(
    entry: CatalogEntry, models_dir: Path, *, full: bool = False
) -> tuple[Path, Lock] | None:
    """Folder and lock of the first source that is on this machine; None if there is none.

    `full` reads every byte; otherwise only files whose size or time changed are hashed.
    Raises CorruptFile if the files differ from their lock or cannot be read.
    """
    for source in entry.spec.sources:
        if isinstance(source, FolderSource):
            folder = local_path(entry, source.path)
            if folder.is_dir():
                names = folder_files(folder)
                return folder, _folder_lock(
                    entry.spec.id, source, folder, models_dir, names=names, full=full
                )
            continue
        folder = models_dir.absolute() / entry.spec.id
        lock = read_lock(folder / LOCK_NAME)
        if lock is not None and lock.source == source:
            verify(folder, folder / LOCK_NAME, lock, full=full)
            return folder, lock
    return None


@unreadable_is_corrupt()
def _with_adapter(
    base: ResolvedModel, entry: CatalogEntry, path: str, models_dir: Path
) -> ResolvedModel:
    """The model with an adapter: its hash is SHA-256 over that of the base and those of the files.

    Raises NotPulled, naming the folder, if the adapter is not there.
    """
    folder = local_path(entry, path)
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise NotPulled(
            f"{base.id}: its adapter's folder {folder} has no {missing[0]}; put PEFT's files "
            f"there, or change the path in {entry.file}"
        )
    lock = _folder_lock(
        base.id, FolderSource(path=path), folder, models_dir, names=ADAPTER_FILES, full=False
    )
    total = hashlib.sha256(bytes.fromhex(base.weights_sha256 or ""))
    for name in sorted(lock.files):
        total.update(bytes.fromhex(lock.files[name].sha256))
    return msgspec.structs.replace(base, adapter_path=str(folder), weights_sha256=total.hexdigest())


def _folder_lock(
    name: str,
    source: FolderSource,
    folder: Path,
    models_dir: Path,
    *,
    names: Collection[str],
    full: bool,
) -> Lock:
    """Hashes of a local folder, kept beside the pulled models so that they are computed once."""
    cache = models_dir / _FOLDER_HASHES / f"{name}.json"
    kept = read_lock(cache)
    same_files = kept is not None and kept.source == source and set(kept.files) == set(names)
    if kept is not None and same_files and not full and untouched(folder, kept.files):
        return kept
    lock = Lock(model=name, source=source, files=lock_files(folder, names))
    # Only a cache: a read-only data folder means hashing again at the next start.
    with contextlib.suppress(OSError):
        write_lock(cache, lock)
    return lock
