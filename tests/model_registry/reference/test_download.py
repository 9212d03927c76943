"""The public dialogue files become the chats that were trained on, or nothing."""

import json

import pytest

from model_registry.reference.download import (
    PARTS,
    CorpusMismatchError,
    chat_lines,
    download,
    write_part,
)

SOURCE = [
    {
        "dialogue_id": "1_00000",
        "services": ["Restaurants_1"],
        "turns": [
            {"speaker": "USER", "utterance": "Hello?", "frames": [{"slots": []}]},
            {"speaker": "SYSTEM", "utterance": "Hi.", "frames": []},
        ],
    }
]


def test_conversion_keeps_what_was_said():
    """Speakers become roles; the annotations are dropped."""
    (line,) = chat_lines(SOURCE)
    assert json.loads(line) == {
        "id": "1_00000",
        "services": ["Restaurants_1"],
        "messages": [
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "content": "Hi."},
        ],
    }


def test_other_dialogues_are_refused(tmp_path):
    """A corpus with another hash is named and not written."""
    with pytest.raises(CorpusMismatchError, match="the source has changed"):
        write_part("train", chat_lines(SOURCE), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_present_file_is_not_fetched_again(tmp_path):
    """A second run needs no network."""
    path = tmp_path / "sgd-train.jsonl.gz"
    path.write_bytes(b"there already")
    assert download("train", tmp_path) == path
    assert path.read_bytes() == b"there already"


def test_left_out_files_are_not_asked_for():
    """The numbers of the source files are those the hash was taken over."""
    assert [len(PARTS[split].numbers) for split in ("train", "dev", "test")] == [96, 17, 24]
