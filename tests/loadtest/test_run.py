"""A run sends on time, whatever the service does, and says when it could not."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from loadtest.address import Address
from loadtest.corpus import Message, Prompt
from loadtest.errors import LoadTestError
from loadtest.observation import Observation
from loadtest.plan import Arrivals, Plan, Validity
from loadtest.results.summary import summarize
from loadtest.run import Results, check_models, connect, run
from loadtest.schedule import schedule
from support.interrupts import in_background
from support.waiting import wait_until

PROMPTS = tuple(
    Prompt(id=f"p{n}", messages=(Message(role="user", content="Wohin?"),)) for n in range(5)
)
ANY_LAG = Validity(
    max_send_lag_p95_ms=5000,
    max_loop_lag_p95_ms=5000,
    max_ttft_difference_ms=5000,
    max_tpot_difference_percent=5000,
)
PLAN = Plan(
    models=("good", "other"),
    requests_per_model=6,
    block_requests=3,
    warmup_requests=1,
    arrivals=Arrivals(process="constant", rate_per_s=100),
    validity=ANY_LAG,
)
PLAN_TOML = """
models = ["good", "other"]
requests_per_model = 4
warmup_requests = 1
timeout_s = 30
arrivals = {{ process = "constant", rate_per_s = {rate} }}
[validity]
max_send_lag_p95_ms = {lag}
max_loop_lag_p95_ms = 5000
max_ttft_difference_ms = 5000
max_tpot_difference_percent = 5000
"""


async def execute(url: str, plan: Plan, watch=lambda _: None) -> Results:
    turns = schedule(plan, len(PROMPTS))
    return await run(plan, turns, PROMPTS, Address.parse(url), watch)


def command(tmp_path: Path, *args: str, rate: float = 100, lag: float = 5000) -> list[str]:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN_TOML.format(rate=rate, lag=lag), encoding="utf-8")
    return [sys.executable, "-m", "loadtest", "run", str(plan), *args]


async def test_every_model_answers_every_prompt(running) -> None:
    """All planned requests are observed, with equal prompts for each model; warm-ups apart."""
    watched: list[Observation] = []
    results = await execute(running.url, PLAN, watched.append)

    prompts = {
        model: sorted(one.prompt_id for one in results.observations if one.model == model)
        for model in PLAN.models
    }
    assert prompts["good"] == prompts["other"]
    assert (len(results.observations), len(results.warmups), len(watched)) == (12, 2, 12)


async def test_requests_do_not_wait_for_answers(running) -> None:
    """Open loop: while no answer comes, all requests of the turn are sent on time."""
    plan = structs.replace(
        PLAN, models=("stuck",), warmup_requests=0, block_requests=6, timeout_s=0.5
    )
    begun = time.monotonic()

    results = await execute(running.url, plan)

    assert {one.outcome for one in results.observations} == {"timeout"}
    assert time.monotonic() - begun < 6 * 0.5
    sent_s = [one.sent_ns / 1e9 for one in results.observations]
    assert max(sent_s) - min(sent_s) < 0.5


async def test_turns_do_not_overlap(running) -> None:
    """The next model's turn begins when the last answer of the one before is there."""
    results = await execute(running.url, PLAN)

    spans: dict[tuple[int, str], list[int]] = {}
    for one in results.observations:
        spans.setdefault((one.block, one.model), []).extend((one.planned_ns, one.last_ns or 0))
    ordered = sorted((min(times), max(times)) for times in spans.values())
    assert len(ordered) == 4
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(ordered))


async def test_a_client_that_lags_invalidates_the_run(running) -> None:
    """When the client itself stalls, the run says that its numbers must not be used."""
    slower = Arrivals(process="constant", rate_per_s=20)
    plan = structs.replace(
        PLAN,
        validity=structs.replace(ANY_LAG, max_send_lag_p95_ms=50),
        block_requests=6,
        arrivals=slower,
    )

    results = await execute(running.url, plan, lambda _: time.sleep(0.2))

    (fault,) = summarize(plan, results).invalid
    assert "send lag p95" in fault


async def test_a_missing_model_ends_the_run_before_it_begins(running) -> None:
    """A model that the service does not list is an error that names the listed ones."""
    async with connect(running.url) as http:
        with pytest.raises(LoadTestError, match=r"no model absent; it has .*good"):
            await check_models(http, ["good", "absent"])


async def test_a_missing_service_is_named() -> None:
    """A service that does not listen is an error with its address."""
    async with connect("http://127.0.0.1:9") as http:
        with pytest.raises(LoadTestError, match=r"127\.0\.0\.1:9"):
            await check_models(http, ["good"])


def test_the_command_ends_with_a_document(running, tmp_path: Path) -> None:
    """The last line of stdout is JSON with what the table says; the file has every request."""
    file = tmp_path / "out.json"
    args = command(tmp_path, "--base-url", running.url, "--json", str(file), "--seed", "9")

    done = subprocess.run(args, capture_output=True, text=True, check=True)

    document = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert document["plan"]["seed"] == 9
    assert [m["ok"] for m in document["summary"]["models"]] == [4, 4]
    assert document["reconciliation"] == {
        "checked": 10, "missing": [], "duplicated": [], "differing": [], "extra": [],
    }  # fmt: skip
    assert "all 10 requests match" in done.stdout
    assert len(msgspec.json.decode(file.read_bytes())["observations"]) == 8


def test_an_invalid_run_fails(running, tmp_path: Path) -> None:
    """A schedule that nobody could keep ends the command with 1 and says why."""
    args = command(tmp_path, "--base-url", running.url, lag=0.0001)

    done = subprocess.run(args, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "INVALID: send lag" in done.stdout
    assert msgspec.json.decode(done.stdout.splitlines()[-1])["summary"]["invalid"]


def test_interrupting_shows_what_there_is(running, tmp_path: Path) -> None:
    """Ctrl-C ends the run with the table and the document so far, also as a background job.

    A shell starts its background jobs with SIGINT ignored, and a child inherits that.
    """
    args = command(tmp_path, "--base-url", running.url, rate=2)
    before = len(running.store._records)

    with subprocess.Popen(
        in_background(args), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        wait_until(lambda: len(running.store._records) >= before + 4)
        os.kill(child.pid, signal.SIGINT)
        stdout, _ = child.communicate(timeout=20)

    document = msgspec.json.decode(stdout.splitlines()[-1])
    assert child.returncode == 130
    assert document["summary"]["interrupted"]
    assert 1 <= document["summary"]["requests"] < 8
    assert not document["reconciliation"]["missing"]


def test_another_machine_is_not_loaded_unasked(tmp_path: Path) -> None:
    """Without --yes an address elsewhere needs a confirmation, which nobody gives here."""
    args = command(tmp_path, "--base-url", "http://service.invalid:8000")

    done = subprocess.run(
        args, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )

    assert done.returncode == 1
    assert "Send 8 requests to http://service.invalid:8000?" in done.stderr


def test_the_plan_command_sends_nothing(tmp_path: Path) -> None:
    """`plan` shows each turn."""
    args = command(tmp_path)
    args[3] = "plan"

    done = subprocess.run(args, capture_output=True, text=True, check=True)

    assert "8 requests" in done.stdout
    assert "good" in done.stdout
    assert "other" in done.stdout
