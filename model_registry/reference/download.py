"""Fetches the Schema-Guided Dialogue files from their public source as chat messages.

The conversion keeps what was said and drops the annotations; the SHA-256 of each result is the
one the shipped weights were trained on.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import msgspec
from rich.progress import track

SOURCE: Final = (
    "https://raw.githubusercontent.com/google-research-datasets/"
    "dstc8-schema-guided-dialogue/master/{split}/dialogues_{number:03}.json"
)
Split = Literal["train", "dev", "test"]
ROLES: Final = {"USER": "user", "SYSTEM": "assistant"}


class Part(msgspec.Struct, frozen=True):
    """The source files of a split that the trio uses, and the hash of their conversion."""

    files: int
    left_out: frozenset[int]
    sha256: str

    @property
    def numbers(self) -> list[int]:
        """The numbers of the source files, in order."""
        return [number for number in range(1, self.files + 1) if number not in self.left_out]


#: The larger source files were not at hand when the trio was trained, so they are left out.
PARTS: Final[dict[Split, Part]] = {
    "train": Part(
        127,
        frozenset((37, *range(52, 57), 58, 60, 66, 68, *range(70, 86), 93, 94, 104, 117, 118)),
        "557239ef2f79b5ad9433ca4d847867de7762178b8641f3012d81256b9be038d0",
    ),
    "dev": Part(
        20,
        frozenset((15, 17, 18)),
        "86352741f48799fbde02f5052bd332e6c39afbd16bf932092aec7e0aaafb9016",
    ),
    "test": Part(
        34,
        frozenset((12, 16, 19, 22, 23, 26, 27, 28, 29, 31)),
        "b9eabf53d1c75ac58c31463e20669285bfca8f9f103e30d7b23513dcffbc4d91",
    ),
}


class CorpusMismatchError(ValueError):
    """The corpus is not the one the trio was trained on."""


def chat_lines(source: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The JSON lines of a source file's dialogues: id, services and messages."""
    for dialogue in source:
        messages = [
            {"role": ROLES[turn["speaker"]], "content": turn["utterance"]}
            for turn in dialogue["turns"]
        ]
        chat = {
            "id": dialogue["dialogue_id"],
            "services": dialogue["services"],
            "messages": messages,
        }
        yield json.dumps(chat) + "\n"


def write_part(split: Split, lines: Iterable[str], folder: Path) -> Path:
    """Write `sgd-SPLIT.jsonl.gz`; a wrong hash raises CorpusMismatchError and writes nothing."""
    text = "".join(lines).encode()
    digest = hashlib.sha256(text).hexdigest()
    if digest != PARTS[split].sha256:
        raise CorpusMismatchError(
            f"the {split} dialogues have SHA-256 {digest}, not {PARTS[split].sha256}: "
            "the source has changed; pass a folder with the original files as --corpus"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sgd-{split}.jsonl.gz"
    partial = path.with_suffix(".partial")
    partial.write_bytes(gzip.compress(text, mtime=0))
    return partial.replace(path)


def download(split: Split, folder: Path) -> Path:
    """Fetch and convert a split unless the folder has it; the path of the file."""
    path = folder / f"sgd-{split}.jsonl.gz"
    if path.exists():
        return path
    lines: list[str] = []
    with httpx.Client(timeout=60.0, transport=httpx.HTTPTransport(retries=3)) as client:
        for number in track(PARTS[split].numbers, description=f"dialogues, {split}"):
            answer = client.get(SOURCE.format(split=split, number=number)).raise_for_status()
            lines += chat_lines(answer.json())
    return write_part(split, lines, folder)
