"""A corpus of a few own dialogues, in the files the scripts read."""

import gzip
import json

import pytest
from tokenizers import Tokenizer

from model_registry.reference.checkpoint import WEIGHTS
from model_registry.reference.corpus import Dialogue, Message

TOWNS = ("Oakland", "Berkeley", "Fremont", "Napa", "Davis", "Chico", "Marin", "Sonoma")


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer that ships."""
    return Tokenizer.from_file(str(WEIGHTS / "transformer" / "tokenizer.json"))


@pytest.fixture
def dialogues():
    """Eight short chats."""
    return [
        Dialogue(
            id=f"1_{number:05}",
            messages=(
                Message("user", f"I need a table in {town}."),
                Message("assistant", f"For how many people in {town}?"),
            ),
        )
        for number, town in enumerate(TOWNS)
    ]


@pytest.fixture
def corpus(tmp_path, dialogues):
    """A folder with the dialogues, a text and two minimal pairs."""
    chats = [
        {"id": d.id, "messages": [{"role": m.role, "content": m.content} for m in d.messages]}
        for d in dialogues
    ]
    pairs = [
        {"good": "Cats sleep.", "bad": "Cats sleeps.", "phenomenon": "agreement"},
        {"good": "She sleeps.", "bad": "She sleep.", "phenomenon": "agreement"},
    ]
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, lines in {
        "sgd-train.jsonl.gz": chats,
        "sgd-test.jsonl.gz": chats,
        "blimp-60-each.jsonl.gz": pairs,
    }.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / name).write_bytes(gzip.compress(text.encode()))
    (folder / "wikitext2-test.txt.gz").write_bytes(gzip.compress(b"The town lies on a river .\n"))
    return folder
