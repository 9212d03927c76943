"""`triptych score` against a running service."""

import gzip
import json
import subprocess
import sys

import pytest


def score(*arguments):
    """Run `triptych score` to its end."""
    command = [sys.executable, "-m", "service", "score", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def at(echo_service):
    return ("-m", "echo", "-m", "echo-ssm", "--url", echo_service.base_url)


def test_a_file_is_scored_by_each_model(at, tmp_path):
    """A row a model, with bytes and tokens of the whole file."""
    file = tmp_path / "text.txt.gz"
    file.write_bytes(gzip.compress(b"one two three\n"))
    done = score(file, *at)
    assert done.returncode == 0, done.stderr
    assert "bits/byte" in done.stdout
    assert done.stdout.count(" 14 ") == 2


def test_many_texts_go_in_several_requests(at, tmp_path):
    """Their scores are joined into one document, in the file's order."""
    file = tmp_path / "texts.jsonl"
    texts = [f"text {number}" for number in range(600)]
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    done = score("--jsonl", "--json", file, *at)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["models"]
    assert [text["bytes"] for text in first["texts"]] == list(map(len, texts))
    assert second["total"]["bytes"] == sum(map(len, texts))
    assert len(second["difference"]["texts"]) == 600


def test_pairs_are_judged(at, tmp_path):
    """An echo finds all texts equally likely: every judgement is a tie, and wrong."""
    file = tmp_path / "pairs.jsonl"
    pair = {"sentence_good": "it is", "sentence_bad": "it are", "UID": "agreement"}
    file.write_text(json.dumps(pair) + "\n")
    done = score("--pairs", file, *at)
    assert done.returncode == 0, done.stderr
    assert "agreement" in done.stdout
    assert done.stdout.count("0.0%") == 4


def test_a_model_that_fails_is_named(at, tmp_path):
    """The others' scores are shown, and the exit status tells."""
    file = tmp_path / "text.txt"
    file.write_text("one")
    done = score(file, "-m", "nobody", *at)
    assert done.returncode == 1
    assert "`nobody` does not exist" in done.stdout


@pytest.mark.parametrize(
    ("option", "content", "word"),
    [("--pairs", "{}", "line 1"), ("--jsonl", '{"tex": 1}', "`text`"), ("--pairs", "", "no pairs")],
)
def test_a_file_of_another_form_is_refused(at, tmp_path, option, content, word):
    """Before anything is sent."""
    file = tmp_path / "file"
    file.write_text(content)
    done = score(option, file, *at)
    assert done.returncode == 1
    assert word in done.stderr
