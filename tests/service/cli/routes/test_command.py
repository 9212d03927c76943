"""`triptych routes` against a running service."""

import json

from click.testing import CliRunner

from service.cli.main import main
from support.live_service import live

__all__ = ["live"]


def triptych(live, *words):
    url = live if isinstance(live, str) else live.base_url
    return CliRunner().invoke(main, ["routes", *words, "--url", url])


def test_routes_are_listed_with_policy_and_models(live):
    """One line each."""
    done = triptych(live, "list")
    assert done.exit_code == 0
    (line,) = [each for each in done.stdout.splitlines() if "half-half" in each]
    assert line.split() == ["half-half", "weighted", "echo,", "other", "configuration"]


def test_a_shown_route_is_what_put_takes(live):
    """Its definition as JSON."""
    shown = json.loads(triptych(live, "show", "half-half").stdout)
    assert (shown["policy"], shown["sticky_header"]) == ("weighted", "x-session")


def test_a_decision_is_explained(live):
    """Reason and arms, and that it is computed again."""
    request_id = live.chat(model="chain").headers["x-request-id"]
    done = triptych(live, "explain", request_id)
    assert done.exit_code == 0, done.output
    assert "fallback" in done.stdout
    assert "broken" in done.stdout
    assert "same decision" in done.stdout


def test_a_request_that_named_a_model_is_explained(live):
    """In short."""
    request_id = live.chat().headers["x-request-id"]
    done = triptych(live, "explain", request_id)
    assert (done.exit_code, "direct" in done.stdout) == (0, True)


def test_statistics_have_a_row_for_each_arm(live):
    """And the comparison of a weighted route's arms."""
    for number in range(12):
        live.chat(model="half-half", user=f"user {number}")
    done = triptych(live, "stats", "half-half")
    assert done.exit_code == 0, done.output
    assert {"echo", "other"} <= {line.split()[0] for line in done.stdout.splitlines() if line}
    assert "ttft_ms" in done.stdout
    found = json.loads(triptych(live, "stats", "half-half", "--json").stdout)
    assert sum(arm["requests"] for arm in found["arms"]) >= 12


def test_a_period_can_be_given(live):
    """Nothing was asked for in the last century."""
    period = ["--until", "2000-01-01T00:00:00Z"]
    found = json.loads(triptych(live, "stats", "half-half", "--json", *period).stdout)
    assert found["arms"] == []


def test_errors_are_one_line(live):
    """The service's own words, or how to start it."""
    done = triptych(live, "show", "nothing")
    assert (done.exit_code, "There is no route" in done.output) == (1, True)
    done = triptych("http://127.0.0.1:9", "list")
    assert (done.exit_code, "triptych serve" in done.output) == (1, True)
