"""A whole service on echo models, behind a real socket, in a thread of the test process."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from service.app import create_application
from service.application import Application
from service.core.routes.route import Arm, FallbackRoute, WeightedRoute
from service.server import address, listen, protocol_with
from service.settings import Settings

START_LIMIT_S = 20.0

#: Catalogue files of models that behave: `[architecture]` of an echo model says how.
MODELS = {
    "echo": "",
    "other": "",
    "slow": "itl_ms = 20",
    "late": "ttft_ms = 400",
    "failing": "fail_after_tokens = 2",
    "dead": "fail_after_tokens = 0",
    "broken": 'load_error = "no memory for it"',
    "heavy": "load_ms = 600",
    "single": "slots = 1\nitl_ms = 20",
    "big": "weights_bytes = 600",
    "large": "weights_bytes = 600",
    "large-slow": "weights_bytes = 600\nitl_ms = 150",
    "huge": "weights_bytes = 6000",
}
CONTEXT_TOKENS = {"other": 64}
ROUTES: dict[str, Any] = {
    "half-half": WeightedRoute(
        arms=(Arm(model="echo"), Arm(model="other")), sticky_header="x-session"
    ),
    "chain": FallbackRoute(arms=(Arm(model="broken"), Arm(model="echo"))),
}


class LiveService:
    """A running service: its address, and access to its event loop."""

    def __init__(
        self, folder: Path, *, more_models: tuple[str, ...] = (), port: int = 0, **settings: Any
    ) -> None:
        models = folder / "models-of-the-test"
        models.mkdir(parents=True, exist_ok=True)
        for name, behaviour in MODELS.items():
            (models / f"{name}.toml").write_text(
                f'id = "{name}"\nfamily = "transformer"\nlicence = "Apache-2.0"\n'
                f"context_tokens = {CONTEXT_TOKENS.get(name, 4096)}\nsources = []\n"
                f'engine = "echo"\ndtype = "float32"\nvariants.half.dtype = "float16"\n'
                f"[architecture]\n{behaviour}\n"
            )
        known: dict[str, Any] = {"preload": ("echo",), "data_dir": str(folder)}
        self.settings = Settings(models=(str(models), *more_models), **(known | settings))
        self.socket = listen("127.0.0.1", port)
        self.base_url = address(self.socket)
        self.application: Application | None = None
        self.client = httpx.Client(base_url=self.base_url, timeout=20)
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.application = create_application(self.settings)
        config = uvicorn.Config(
            self.application.api,
            http=protocol_with(self.settings.http),
            log_config=None,
            lifespan="on",
        )
        self._server = uvicorn.Server(config)
        async with self.application.running():
            await self._server.serve(sockets=[self.socket])

    def start(self) -> "LiveService":
        """Serve; return when the preloaded models answer."""
        self._thread.start()
        self.until(lambda: self.get("/ready").status_code == 200)
        return self

    def stop(self) -> None:
        """Close everything."""
        self.client.close()
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(START_LIMIT_S)
        self.socket.close()

    def until(self, condition: Any, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the condition holds."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if condition():
                    return
            time.sleep(0.01)
        raise AssertionError("it did not come true")

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a function in the service's event loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_LIMIT_S)

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._thread.is_alive()

    @property
    def requests(self) -> int:
        """Number of requests that wait or run."""
        assert self.application is not None
        return self.application.pool.requests

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.client.get(path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """Send a POST request with a JSON body."""
        return self.client.post(path, json=body, **options)

    def chat(
        self, text: str = "one two three", model: str = "echo", **fields: Any
    ) -> httpx.Response:
        """Send a chat request."""
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"model": model, "messages": messages, **fields})

    def record(self, request_id: str) -> dict[str, Any]:
        """Fetch the record of a request."""
        return self.get(f"/v1/records/{request_id}").json()


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Shared service for tests that leave no state behind."""
    service = LiveService(tmp_path_factory.mktemp("live"), routes=ROUTES).start()
    yield service
    service.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """Start a service of the test's own: `serve(max_queued_requests=1)`."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> LiveService:
            service = LiveService(tmp_path, **settings)
            stack.callback(service.stop)
            return service.start()

        yield start
