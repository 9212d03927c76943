"""Engines that the contract suite asks, each opened once; a new engine is one more entry."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from model_registry.spec import ModelSpec, Remote, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Message, Prompt, Sampling
from service.core.events import Delta, EngineEvent, Finished, Started
from service.core.ports import Engine
from service.engines import open_engine
from service.engines.torch.host import TorchHost
from service.engines.torch.options import TorchOptions
from service.engines.vllm.command import VllmOptions
from support import tiny_text, vllm_here

CONTEXT_TOKENS = 256
_numbers = count()


def chat(text: str) -> ChatPrompt:
    """One turn of a user."""
    return ChatPrompt((Message(role="user", content=text),))


class Answer(msgspec.Struct):
    """Everything that one request gave."""

    events: list[EngineEvent]

    @property
    def started(self) -> Started:
        return next(event for event in self.events if isinstance(event, Started))

    @property
    def finished(self) -> Finished:
        return next(event for event in self.events if isinstance(event, Finished))

    @property
    def deltas(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]

    @property
    def token_ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas) + self.finished.text


class Desk:
    """Puts requests to one engine, on one event loop that lasts the whole session."""

    remote = False
    """Whether another server answers, which does not tell everything."""
    drops_unfinished = False
    """Whether bytes that begin a character are dropped where the answer ends in them."""

    def __init__(self, engine: Engine, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.engine = engine
        self.run = run

    def slots_used(self) -> int | None:
        """How many requests hold a slot."""
        return self.engine.memory().slots_used

    def request(self, prompt: Prompt | str, *, echo: bool = False, **sampling: Any) -> ChatRequest:
        """A request; a text is a user's turn."""
        return ChatRequest(
            request_id=f"contract-{next(_numbers)}",
            model="as the client named it",
            prompt=chat(prompt) if isinstance(prompt, str) else prompt,
            sampling=Sampling(**sampling),
            echo=echo,
            accepted_ns=time.monotonic_ns(),
            accepted_at_ns=time.time_ns(),
        )

    def stream(self, prompt: Prompt | str, **options: Any) -> AsyncGenerator[EngineEvent]:
        """The engine's own generator."""
        return self.engine.generate(self.request(prompt, **options))

    async def answer(self, prompt: Prompt | str, **options: Any) -> Answer:
        """One whole answer."""
        async with aclosing(self.stream(prompt, **options)) as events:
            return Answer([event async for event in events])

    def ask(self, prompt: Prompt | str, **options: Any) -> Answer:
        """One whole answer, waited for."""
        return self.run(self.answer(prompt, **options))

    def ask_all(self, *requests: tuple[Prompt | str, dict[str, Any]]) -> list[Answer]:
        """Answers to requests that were put at once."""

        async def gather() -> list[Answer]:
            return await asyncio.gather(
                *(self.answer(prompt, **options) for prompt, options in requests)
            )

        return self.run(gather())

    async def idle(self, limit_s: float = 10.0) -> bool:
        """Whether all slots are free within the limit."""
        deadline = time.monotonic() + limit_s
        while self.slots_used() and time.monotonic() < deadline:  # noqa: ASYNC110  polls another process
            await asyncio.sleep(0.01)
        return self.slots_used() == 0


class VllmDesk(Desk):
    """Asks a vLLM, and what that says it is doing."""

    remote = True
    drops_unfinished = True

    def slots_used(self) -> int | None:
        """As the engine and vLLM itself count, whose number is a moment late."""
        transport = httpx.HTTPTransport(uds=str(self.engine.socket))
        with httpx.Client(transport=transport) as client:
            told = client.get("http://vllm/metrics").text
        waiting_and_running = r"(?m)^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$"
        in_vllm = round(sum(map(float, re.findall(waiting_and_running, told))))
        return max(in_vllm, self.engine.memory().slots_used or 0)


class RemoteDesk(Desk):
    """Asks another Triptych, and what that holds."""

    remote = True

    def slots_used(self) -> int | None:
        """As the far side tells it."""
        remote = self.engine.model.spec.remote
        assert remote is not None
        told = httpx.get(remote.base_url + "/memory").json()
        (model,) = (each for each in told["models"] if each["id"] == "echo")
        return model["slots_used"]


def _spec(name: str, **fields: Any) -> ModelSpec:
    return ModelSpec(
        id=name,
        family="transformer",
        licence="Apache-2.0",
        context_tokens=CONTEXT_TOKENS,
        sources=(),
        dtype="float32",
        **fields,
    )


def _echo(folder: Path) -> ResolvedModel:
    return ResolvedModel(
        spec=_spec("echo", engine="echo"), variant=None, path="", weights_sha256=None
    )


def _torch(name: str) -> Callable[[Path], ResolvedModel]:
    def resolve(folder: Path) -> ResolvedModel:
        path = str(tiny_text.write_model(name, folder))
        return ResolvedModel(
            spec=_spec(f"tiny-{name}"), variant=None, path=path, weights_sha256=None
        )

    return resolve


def _vllm(name: str, **changes: object) -> Callable[[Path], ResolvedModel]:
    def resolve(folder: Path) -> ResolvedModel:
        path = str(tiny_text.write_model(name, folder, **changes))
        spec = _spec(f"tiny-{name.replace('_', '-')}", engine="vllm")
        return ResolvedModel(spec=spec, variant=None, path=path, weights_sha256=None)

    return resolve


VLLM_ENGINES: dict[str, Callable[[Path], ResolvedModel]] = {
    "vllm transformer": _vllm("llama", head_dim=32),  # its kernel for the CPU begins at 32
    "vllm ssm": _vllm("mamba2"),
    "vllm hybrid": _vllm("falcon_h1", head_dim=32),
}
"""The same for vLLM, each a server of its own."""

ENGINES: dict[str, Callable[[Path], ResolvedModel]] = {
    "echo": _echo,
    "torch transformer": _torch("llama"),
    "torch ssm": _torch("mamba2"),
}
"""Kind of engine → its model, with files in an empty folder."""


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a coroutine on the session's event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def torch_host(tmp_path_factory, run) -> Iterator[TorchHost]:
    """One host for all models of the suite; it starts with the first."""
    host = TorchHost(
        TorchOptions(data_dir=tmp_path_factory.mktemp("host"), slots=8, prefill_chunk_tokens=16)
    )
    yield host
    run(host.aclose())


ECHO = """
id = "echo"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 256
dtype = "float32"
engine = "echo"
sources = []
architecture.itl_ms = 1
"""


@pytest.fixture(scope="session")
def far_side(tmp_path_factory) -> Iterator[str]:
    """The address of another Triptych, a process of its own, that serves the echo model."""
    folder = tmp_path_factory.mktemp("far-side")
    (folder / "echo.toml").write_text(ECHO)
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--preload", "echo"]
    process = subprocess.Popen(
        [*command, "--models", str(folder), "--data-dir", str(folder / "data")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        found = None
        while found is None:
            found = re.search(r"http://[\w.]+:\d+", process.stdout.readline())
        while not httpx.get(f"{found.group()}/ready").is_success:
            time.sleep(0.05)
        yield found.group()
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(
    scope="session",
    params=[
        *ENGINES,
        "another Triptych",
        *(pytest.param(kind, marks=vllm_here.MARKS) for kind in VLLM_ENGINES),
    ],
)
def desk(request, tmp_path_factory, run, torch_host) -> Iterator[Desk]:
    """A started engine of each kind."""
    vllm = VllmOptions(
        data_dir=tmp_path_factory.mktemp("vllm"),
        python=vllm_here.PYTHON or "",
        compile=False,
        kv_cache_bytes=1 << 26,
        slots=8,
    )
    if request.param == "another Triptych":
        remote = Remote(base_url=request.getfixturevalue("far_side") + "/v1", model="echo")
        spec = _spec("far", engine="openai", remote=remote)
        engine = open_engine(
            ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None),
            torch_host=torch_host,
            vllm=vllm,
        )
        run(engine.start())
        yield RemoteDesk(engine, run)
        run(engine.aclose())
        return
    kinds = ENGINES | VLLM_ENGINES
    model = kinds[request.param](tmp_path_factory.mktemp("model"))
    engine = open_engine(model, torch_host=torch_host, vllm=vllm)
    run(engine.start())
    desk = VllmDesk if request.param in VLLM_ENGINES else Desk
    yield desk(engine, run)
    run(engine.aclose())
