"""Fetch a model from the Hugging Face hub: one commit, listed files only, resumable.

The hub's client gives addresses and credentials; the bytes are streamed here, because its own
download starts anew after an interruption.
"""

import time
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from msgspec import Meta, Struct

from model_registry.errors import CorruptFile, PullFailed
from model_registry.sources.file_names import check_listed_names, check_not_a_link
from model_registry.sources.lock import hash_file
from model_registry.sources.model_files import INDEX, files_beside_weights, weight_files
from model_registry.sources.progress import PullProgress, Report
from model_registry.spec import HubSource, Sha256

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_ATTEMPTS = 5
_PAUSE_S = 0.5
_REASONS = {
    401: "needs a login; set HF_TOKEN",
    403: "is gated; accept its licence on the hub and set HF_TOKEN",
    404: "does not exist there, or needs a login (HF_TOKEN)",
}


class _Lfs(Struct):
    sha256: Sha256


class _File(Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Revision(Struct):
    """The hub's answer to `GET /api/models/REPO/revision/REV?blobs=true`."""

    sha: Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]
    siblings: list[_File]


def fetch_repository(
    source: HubSource, work: Path, report: Report, transport: httpx.BaseTransport | None = None
) -> tuple[str, Path]:
    """Download the model's files into a folder in `work`; return the commit and that folder.

    A file that is partly there is continued; one that is whole is only checked.

    Raises:
        PullFailed: the hub cannot be reached, or refuses; the message says which.
        UnsupportedArchitecture: the repository has no safetensors.
        CorruptFile: a file has another size or SHA-256 than the hub announced, and is removed; or
            the hub names a path outside the folder, and nothing is written.
    """
    with httpx.Client(
        base_url=constants.ENDPOINT,
        headers=build_hf_headers(),
        follow_redirects=True,
        timeout=_TIMEOUT,
        transport=transport,
    ) as client:
        revision = _revision(client, source)
        files = {file.rfilename: file for file in revision.siblings}
        check_listed_names(f"{source.repository} at {client.base_url}", files)
        folder = work / f"hub-{revision.sha}"
        folder.mkdir(parents=True, exist_ok=True)
        address = f"/{source.repository}/resolve/{revision.sha}"
        index = None
        if INDEX in files:
            _download(client, address, files[INDEX], folder, report)
            index = (folder / INDEX).read_bytes()
        wanted = files_beside_weights(files) + weight_files(source.repository, files, index)
        for name in wanted:
            _download(client, address, files[name], folder, report)
    return revision.sha, folder


def _revision(client: httpx.Client, source: HubSource) -> _Revision:
    url = f"/api/models/{source.repository}/revision/{source.revision}"
    try:
        answer = client.get(url, params={"blobs": "true"})
    except httpx.HTTPError as error:
        raise PullFailed(f"{client.base_url} cannot be reached ({error})") from error
    if answer.is_error:
        raise PullFailed(_refusal(answer, f"{source.repository}@{source.revision}"))
    try:
        return msgspec.json.decode(answer.content, type=_Revision)
    except msgspec.MsgspecError as error:
        raise PullFailed(f"{client.base_url} gave an unexpected answer: {error}") from error


def _refusal(answer: httpx.Response, what: str) -> str:
    reason = _REASONS.get(answer.status_code, f"was refused with HTTP {answer.status_code}")
    return f"{what} {reason}"


def _download(
    client: httpx.Client, address: str, file: _File, folder: Path, report: Report
) -> None:
    target = folder / file.rfilename
    partial = folder / f"{file.rfilename}.part"
    check_not_a_link(target)
    check_not_a_link(partial)
    if not target.exists():
        _persist(client, f"{address}/{file.rfilename}", file, partial, report)
        partial.rename(target)
    _check(target, file, report)


def _persist(client: httpx.Client, url: str, file: _File, partial: Path, report: Report) -> None:
    """Stream a file, resuming after broken connections as long as each makes progress."""
    failures, had_bytes = 0, _size(partial)
    while True:
        try:
            return _stream(client, url, file, partial, report)
        except httpx.TransportError as error:
            have_bytes = _size(partial)
            failures = 1 if have_bytes > had_bytes else failures + 1
            had_bytes = have_bytes
            if failures == _ATTEMPTS:
                raise PullFailed(
                    f"{file.rfilename}: download interrupted ({error}); pull again to resume"
                ) from error
            time.sleep(_PAUSE_S)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stream(client: httpx.Client, url: str, file: _File, partial: Path, report: Report) -> None:
    """Append what is missing of one file to `partial`."""
    have = _size(partial)
    if file.size is not None and have >= file.size > 0:
        return
    # Ranges count bytes of the coded body, so the body must come uncoded.
    headers = {"accept-encoding": "identity"}
    if have:
        headers["range"] = f"bytes={have}-"
    with client.stream("GET", url, headers=headers) as answer:
        if answer.is_error:
            raise PullFailed(_refusal(answer, file.rfilename))
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        done_bytes = have if resumed else 0
        with partial.open("ab" if resumed else "wb") as out:
            for piece in answer.iter_bytes():
                done_bytes += out.write(piece)
                if file.size is not None and done_bytes > file.size:
                    raise CorruptFile(
                        f"{file.rfilename}: is longer than the {file.size} bytes that the hub "
                        "announced; pull again"
                    )
                report(
                    PullProgress(
                        stage="download",
                        file=file.rfilename,
                        done_bytes=done_bytes,
                        total_bytes=file.size,
                    )
                )


def _check(target: Path, file: _File, report: Report) -> None:
    size_bytes = target.stat().st_size
    wrong = file.size is not None and size_bytes != file.size
    if not wrong and file.lfs is not None:
        wrong = hash_file(target, report) != file.lfs.sha256
    if wrong:
        target.unlink()
        raise CorruptFile(
            f"{file.rfilename}: size or SHA-256 is not what the hub announced; pull again"
        )
