"""When a server counts as out of reach."""

from service.engines.openai.errors import one_line
from service.engines.openai.reachability import FAILED_ATTEMPTS, REST_S, Reachability


def test_it_is_tried_again_after_a_rest():
    """What is known of a server that nobody asks any more grows old."""
    now_s = 100.0
    reachability = Reachability("The server x", clock_s=lambda: now_s)
    for _ in range(FAILED_ATTEMPTS):
        assert reachability.trouble() is None
        reachability.failed("refused")

    assert reachability.trouble() == "The server x could not be reached 3 times: refused"
    now_s += REST_S + 1
    assert reachability.trouble() is None


def test_an_error_is_one_line():
    """Parsers of HTTP draw arrows below what they do not understand."""
    assert one_line(ValueError("bad:\n\n  x\n  ^")) == "bad: x ^"
    assert one_line(TimeoutError()) == "TimeoutError"
