"""The load test and the service itself agree: a real process, a real socket, echoing models."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loadtest.reconcile import Reconciliation, fetch_records, reconcile
from loadtest.summary import summarize

from loadtest.corpus import load_prompts
from loadtest.plan import Arrivals, Plan, Sampling
from loadtest.run import Results, connect, run
from loadtest.schedule import schedule

MODEL = """
id = "{id}"
family = "{family}"
licence = "Apache-2.0"
context_tokens = 4096
engine = "echo"
sources = []
architecture = {{ ttft_ms = 5, itl_ms = 1 }}
"""
PLAN = Plan(
    models=("echo-ssm", "echo-hybrid"),
    requests_per_model=20,
    block_requests=10,
    warmup_requests=1,
    arrivals=Arrivals(rate_per_s=100),
    sampling=Sampling(max_tokens=12),
    max_send_lag_p95_ms=5000,
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("service")
    for family in ("ssm", "hybrid"):
        entry = MODEL.format(id=f"echo-{family}", family=family)
        (folder / f"echo-{family}.toml").write_text(entry, encoding="utf-8")
    options = ["--port=0", f"--models={folder}", f"--data-dir={folder}/data", "--preload=none"]
    args = [sys.executable, "-m", "service", "serve", *options]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        address = re.search(rb"http://\S+", child.stdout.readline())
        assert address is not None
        yield address[0].decode()
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)


@pytest.fixture(scope="module")
def outcome(url: str) -> tuple[Results, Reconciliation]:
    async def go() -> tuple[Results, Reconciliation]:
        prompts = load_prompts("short", Path())
        async with connect(url) as http:
            results = await run(PLAN, schedule(PLAN, len(prompts)), prompts, http, lambda _: None)
            records = await fetch_records(http, results.run_id, results.begun_at_ns)
            assert records is not None
            return results, reconcile([*results.warmups, *results.observations], records)

    return asyncio.run(go())


def test_every_request_has_its_record(outcome: tuple[Results, Reconciliation]) -> None:
    """Each request of both models, warm-ups included, is recorded once with equal counts."""
    assert outcome[1] == Reconciliation(checked=42, missing=(), duplicated=(), differing=())


def test_every_request_is_answered(outcome: tuple[Results, Reconciliation]) -> None:
    """No request fails, and the warm-ups, which waited for the loads, are the only cold ones."""
    results = outcome[0]

    assert [one.outcome for one in results.observations] == ["ok"] * 40
    assert {one.server.cold for one in results.warmups} == {True}
    assert {one.server.cold for one in results.observations} == {False}


def test_client_and_service_measure_alike(outcome: tuple[Results, Reconciliation]) -> None:
    """The client sees the first token after the service does, and both after the pause."""
    for model in summarize(PLAN, outcome[0]).models:
        assert model.ttft_ms.p50 is not None
        assert model.server_ttft_ms.p50 is not None
        assert 5 <= model.server_ttft_ms.p50 <= model.ttft_ms.p50
