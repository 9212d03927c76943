"""The load test and the service itself agree: a real process, a real socket, echoing models."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from loadtest.address import Address
from loadtest.corpus import load_prompts
from loadtest.plan import Arrivals, Plan, Sampling
from loadtest.results.reconciliation import Reconciliation, by_client_id, reconcile
from loadtest.results.records import fetch_records
from loadtest.results.summary import RunSummary, summarize
from loadtest.run import Results, connect, run
from loadtest.schedule import schedule
from support.waiting import wait_until

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


def test_a_service_that_dies_leaves_a_report(tmp_path: Path) -> None:
    """What was measured until then is kept, and the run is invalid: once all of it was lost."""
    entry = MODEL.format(id="echo-ssm", family="ssm")
    models = tmp_path / "models"
    models.mkdir()
    (models / "echo-ssm.toml").write_text(entry, encoding="utf-8")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'models = ["echo-ssm"]\nrequests_per_model = 60\n[arrivals]\nrate_per_s = 20\n'
        "[sampling]\nmax_tokens = 4\n",
        encoding="utf-8",
    )
    options = ["--port=0", f"--models={models}", f"--data-dir={tmp_path}/data", "--preload=none"]
    serve = [sys.executable, "-m", "service", "serve", *options]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as service:
        assert service.stdout is not None
        address = re.search(rb"http://\S+", service.stdout.readline())
        assert address is not None
        command = ["run", str(plan), "--base-url", address[0].decode()]
        load = [sys.executable, "-m", "loadtest", *command]
        with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
            with httpx.Client(base_url=address[0].decode()) as http:
                wait_until(lambda: len(http.get("/v1/records").json()["data"]) > 8)
            service.kill()
            out, _ = running.communicate(timeout=60)

    document = msgspec.json.decode(out.splitlines()[-1])
    assert running.returncode == 1
    assert document["summary"]["models"][0]["ok"] > 0
    assert any("records cannot be read" in fault for fault in document["summary"]["invalid"])
    assert document["reconciliation"] is None


class Outcome(NamedTuple):
    results: Results
    reconciliation: Reconciliation
    summary: RunSummary


@pytest.fixture(scope="module")
async def outcome(url: str) -> Outcome:
    prompts = load_prompts("short", Path())
    turns = schedule(PLAN, len(prompts))
    results = await run(PLAN, turns, prompts, Address.parse(url), lambda _: None)
    async with connect(url) as http:
        records = await fetch_records(http, results.asked, results.begun_at_ns)
    assert records is not None
    seen = [*results.warmups, *results.observations]
    return Outcome(
        results,
        reconcile(seen, records, results.asked),
        summarize(PLAN, results, by_client_id(records)),
    )


async def test_every_request_has_its_record(outcome: Outcome) -> None:
    """Each request of both models, warm-ups included, is recorded once with equal counts."""
    assert outcome.reconciliation == Reconciliation(checked=42)


async def test_every_request_is_answered(outcome: Outcome) -> None:
    """No request fails, and the warm-ups, which waited for the loads, are the only cold ones."""
    results = outcome.results

    assert [one.outcome for one in results.observations] == ["ok"] * 40
    assert {one.cold for one in results.warmups} == {True}
    assert {one.cold for one in results.observations} == {False}


async def test_the_client_sees_tokens_after_the_service_sampled_them(outcome: Outcome) -> None:
    """On one machine both clocks are one: sent, accepted, sampled and received come in order."""
    for model in outcome.summary.models:
        found = model.agreement
        assert found.joined == 20
        assert found.server_ttft_ms.p50 is not None
        assert 5 <= found.server_ttft_ms.p50 <= model.ttft_from_sent_ms.p50
        assert found.ttft_difference_ms.p50 > 0
