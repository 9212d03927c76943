"""The examples of docs/votes.md work, in their order."""

import json
from itertools import pairwise

from support.documents import blocks, run

BLOCKS = blocks("docs/votes.md")
EXAMPLES = [
    (code, shown if kind == "json" else None)
    for (language, code), (kind, shown) in pairwise([*BLOCKS, ("", "")])
    if language == "sh"
]


def test_the_examples_work_in_their_order(trio):
    """Each ends with status 0, and its answer has what the page shows of it."""
    assert len(EXAMPLES) == 4
    for code, shown in EXAMPLES:
        done = run(code, trio.base_url, language="sh")
        assert done.returncode == 0, done.stderr
        assert '"error":{' not in done.stdout, done.stdout
        if shown is not None:
            assert set(json.loads(shown)) == set(json.loads(done.stdout))
