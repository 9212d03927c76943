"""Every example of the HTTP guide works, and its answers have the fields that the guide shows."""

import json
import re
from itertools import pairwise

import pytest

from support.documents import ROOT, blocks, run

GUIDE = "docs/http-guide.md"
BLOCKS = blocks(GUIDE)
EXAMPLES = [
    (language, code, shown if kind == "json" else None)
    for (language, code), (kind, shown) in pairwise([*BLOCKS, ("", "")])
    if language != "json"
]
KINDS = {dict: "object", list: "array", str: "text", bool: "boolean"}
KINDS |= dict.fromkeys((int, float), "number")


def missing(shown, answer, path="$"):
    """Paths of what the guide shows and the answer does not have, or has in another type."""
    if shown is None or answer is None:
        return []
    if KINDS[type(shown)] != KINDS[type(answer)]:
        return [path]
    if isinstance(shown, dict):
        gone = [f"{path}.{name}" for name in shown if name not in answer]
        there = [(value, answer[name], f"{path}.{name}") for name, value in shown.items()
                 if name in answer]  # fmt: skip
        return gone + [each for inner in there for each in missing(*inner)]
    if isinstance(shown, list) and shown:
        return missing(shown[0], answer[0], f"{path}[0]") if answer else [path]
    return []


@pytest.mark.parametrize(("language", "code", "shown"), EXAMPLES)
def test_an_example_works(trio, language, code, shown):
    """It ends with status 0, and what the guide shows of its answer is there."""
    done = run(code, trio.base_url, language=language)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert ('"error":{' in done.stdout) == code.startswith("# answers 4")
    if shown is not None:
        assert missing(json.loads(shown), json.loads(done.stdout)) == []


def test_the_guide_shows_every_part_of_the_api():
    """Examples that are not found are not run."""
    assert {language for language, _ in BLOCKS} == {"sh", "python", "json"}
    code = " ".join(code for _, code, _ in EXAMPLES)
    for path in ("chat/completions", "completions", "compare", "experiments", "score", "records",
                 "records/summary", "replays", "records/export", "models", "load", "unload", "pin",
                 "models/events", "memory", "runtime", "routes", "stats"):  # fmt: skip
        assert re.search(rf"/v1/(\S+/)?{path}\b", code), path
    assert "/tokenize" in code
    assert "/detokenize" in code


@pytest.mark.parametrize(
    "link", sorted(set(re.findall(r"\]\(([\w./-]+)\)", (ROOT / GUIDE).read_text())))
)
def test_what_the_guide_points_to_is_there(link):
    """Every relative link leads to a file."""
    assert ((ROOT / GUIDE).parent / link).exists()
