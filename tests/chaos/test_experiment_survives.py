"""kill -9 in the middle of an experiment: it goes on where it stood, and misses nothing."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

MODELS = {"slow": "itl_ms = 4", "slower": "itl_ms = 8"}
PLAN = {
    "name": "killed",
    "arms": [{"model": name} for name in MODELS],
    "prompts": {"kind": "synthetic", "context_tokens": [4, 8], "new_tokens": 4},
    "measures": ["speed", "memory", "turns"],
    "conversation": {"turns": 3, "turn_words": 4, "new_tokens": 3},
    "repetitions": 12,
    "seed": 3,
}
KILLS = 4
ADDRESS = re.compile(r"http://[\w.:\[\]]+:\d+")


class Service:
    """A real `triptych serve` on echo models."""

    def __init__(self, folder: Path) -> None:
        models = folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        for name, behaviour in MODELS.items():
            (models / f"{name}.toml").write_text(
                f'id = "{name}"\nfamily = "transformer"\nlicence = "Apache-2.0"\n'
                'context_tokens = 4096\nengine = "echo"\nsources = []\n'
                f"[architecture]\n{behaviour}\n"
            )
        self.log = folder / "serve.log"
        command = [sys.executable, "-m", "service", "serve", "--port", "0"]
        options = ["--data-dir", str(folder), "--models", str(models), "--preload", "slow"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        self.url = self._url()

    def _url(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := ADDRESS.search(self.log.read_text(errors="replace")):
                return found.group() + "/v1/experiments"
            time.sleep(0.02)
        raise AssertionError(self.log.read_text(errors="replace"))

    def end(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(60)


def measured(url: str, experiment_id: str, at_least: int) -> dict[int, str]:
    """Requests of trials that no later start repeats, once there are so many, and a moment later.

    A conversation that was broken off begins again, and so do warm-ups.
    """
    deadline = time.monotonic() + 60
    found: dict[int, str] = {}
    while len(found) < at_least:
        assert time.monotonic() < deadline
        time.sleep(random.uniform(0.0, 0.2))
        found = {
            trial["number"]: trial["request_id"]
            for trial in httpx.get(f"{url}/{experiment_id}/trials").json()["data"]
            if trial["turn"] is None and not trial["warmup"]
        }
    return found


def finished(url: str, experiment_id: str) -> dict:
    """The experiment, once it has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = httpx.get(f"{url}/{experiment_id}").json()
        if found["state"] == "done":
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def planned(trial: dict) -> tuple:
    """What a trial was to be."""
    names = (
        "number", "arm", "measure", "prompt_id", "repetition", "context_tokens", "turn", "warmup",
        "state", "prompt_tokens", "completion_tokens", "text_sha256",
    )  # fmt: skip
    return tuple(trial[name] for name in names)


def paired(report: dict) -> dict:
    """What a report compares, and by how many pairs."""
    return {
        "arms": [(arm["model"], arm["done"], arm["failed"], arm["cold"]) for arm in report["arms"]],
        "curves": [
            (
                curve["arm"],
                curve["metric"],
                [(p["context_tokens"], p["n"]) for p in curve["points"]],
            )
            for curve in report["curves"]
        ],
        "verdicts": [(each["metric"], each["arms"], each["n"]) for each in report["verdicts"]],
        "prompts": [(each["metric"], each["prompt_id"]) for each in report["prompt_pairs"]],
        "turns": len(report["turns"]),
    }


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_killed_experiment_measures_what_one_that_was_never_killed_does(tmp_path):
    """Same trials in the same order on the same texts; what had been measured is kept."""
    whole = Service(tmp_path / "whole")
    services = [whole]
    try:
        undisturbed = httpx.post(whole.url, json=PLAN).json()["id"]
        service = Service(tmp_path / "killed")
        services.append(service)
        experiment_id = httpx.post(service.url, json=PLAN).json()["id"]
        kept: dict[int, str] = {}
        for _ in range(KILLS):
            for number, request_id in measured(service.url, experiment_id, len(kept) + 4).items():
                assert kept.setdefault(number, request_id) == request_id
            service.end(signal.SIGKILL)
            service = Service(tmp_path / "killed")
            services.append(service)

        after = finished(service.url, experiment_id)
        finished(whole.url, undisturbed)
        trials = httpx.get(f"{service.url}/{experiment_id}/trials").json()["data"]
        reference = httpx.get(f"{whole.url}/{undisturbed}/trials").json()["data"]
        reports = [
            httpx.get(f"{url}/{id_}/report.json", timeout=60).json()
            for url, id_ in ((service.url, experiment_id), (whole.url, undisturbed))
        ]
    finally:
        for each in services:
            each.end(signal.SIGTERM)

    assert len(kept) >= 4 * KILLS
    assert after["continued"] == KILLS
    assert (after["done"], after["failed"]) == (after["planned"], 0)
    assert [planned(trial) for trial in trials] == [planned(trial) for trial in reference]
    assert {n: trials[n]["request_id"] for n in kept} == kept
    assert paired(reports[0]) == paired(reports[1])
    assert all(trial["values"].keys() == reference[0]["values"].keys() for trial in trials)


def test_an_experiment_goes_on_after_an_orderly_stop(tmp_path):
    """SIGTERM ends the service at once, though an event stream is open; its reader is told."""
    service = Service(tmp_path)
    services = [service]
    try:
        experiment_id = httpx.post(service.url, json={**PLAN, "repetitions": 2}).json()["id"]
        with httpx.stream("GET", f"{service.url}/{experiment_id}/events", timeout=30) as events:
            lines = events.iter_lines()
            next(line for line in lines if '"done":2' in line)
            begun_s = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        service.end(signal.SIGTERM)
        took_s = time.monotonic() - begun_s
        services.append(Service(tmp_path))
        after = finished(services[-1].url, experiment_id)
    finally:
        for each in services:
            each.end(signal.SIGTERM)

    assert took_s < 10
    assert '"code":"draining"' in "".join(rest)
    assert (after["continued"], after["done"], after["failed"]) == (1, after["planned"], 0)
