"""A real `triptych serve` in its own process, for tests that look from outside."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

START_LIMIT_S = 60.0
ECHO = """
id = "{id}"
family = "{family}"
licence = "Apache-2.0"
context_tokens = 4096
engine = "echo"
sources = []
"""
ADDRESS = re.compile(r"http://[\w.:\[\]]+:\d+")


class RunningService:
    """A service process, its address and its output."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log = data_dir / "serve.log"
        command = [sys.executable, "-m", "service", "serve", "--port", "0"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(data_dir), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self.base_url = self._wait(self._address)

    def _wait(self, answer: Callable[[], str | None], limit_s: float = START_LIMIT_S) -> str:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if (found := answer()) is not None:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the service did not come up:\n{self.output()}")

    def _address(self) -> str | None:
        found = ADDRESS.search(self.output())
        return found and found.group()

    def _loaded(self) -> str | None:
        try:
            return "loaded" if not httpx.get(f"{self.base_url}/health").json()["loading"] else None
        except httpx.TransportError:
            return None

    def output(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Return once its preloaded models answer."""
        self._wait(self._loaded, 120.0)

    def kill(self) -> None:
        """End the service with SIGKILL; what it leaves behind is its own affair."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """End it as an operator does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., RunningService]]:
    """Start services on one data folder; all are stopped at the end."""
    started: list[RunningService] = []

    def start(*options: str) -> RunningService:
        started.append(RunningService(tmp_path / "data", *options))
        return started[-1]

    yield start
    for service in started:
        service.stop()


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service with the three reference models loaded, which stores contents."""
    folder = tmp_path_factory.mktemp("trio")
    (folder / "triptych.toml").write_text('store_content = "full"\n')
    service = RunningService(folder / "data", "--config", str(folder / "triptych.toml"))
    service.wait_ready()
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="session")
def echo_options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of `serve` that load two models without weights, `echo` and `echo-ssm`."""
    folder = tmp_path_factory.mktemp("models")
    for name, family in (("echo", "transformer"), ("echo-ssm", "ssm")):
        (folder / f"{name}.toml").write_text(ECHO.format(id=name, family=family))
    return ("--models", str(folder), "--preload", "echo", "--preload", "echo-ssm")


@pytest.fixture(scope="session")
def echo_service(
    tmp_path_factory: pytest.TempPathFactory, echo_options: tuple[str, ...]
) -> Iterator[RunningService]:
    """One service with two models that have no weights."""
    service = RunningService(tmp_path_factory.mktemp("echo") / "data", *echo_options)
    service.wait_ready()
    yield service
    assert service.stop() == 0
