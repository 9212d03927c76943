"""A small service that really listens, streams and records; its models misbehave by name."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec
import pytest
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.di import Provide
from litestar.response import Stream
from msgspec import structs

from service.api.errors import EXCEPTION_HANDLERS
from service.api.records import record_handlers
from service.core.events import StateBytes
from service.core.metrics import derive
from service.core.record import RequestRecord
from service.serving.records.report import Reports
from service.storage.memory import MemoryRecordStore
from service.storage.writer import RecordWriter

MODELS = (
    "good", "other", "busy", "broken", "cut", "stuck", "lying", "forgotten", "doubled", "odd",
    "slow-way",
)  # fmt: skip
TOKENS = ("Grüße", " aus", "\u2028Köln", "!")


@dataclass
class RunningService:
    """Where it listens and what it wrote down."""

    url: str
    store: MemoryRecordStore


class Answering:
    """Answers chats token by token, and leaves a record of each."""

    def __init__(self, sink: RecordWriter) -> None:
        self.sink = sink
        self.answered = 0

    def record(self, request: Request, model: str, **changes: object) -> RequestRecord:
        self.answered += 1
        now_ns = time.monotonic_ns()
        values: dict[str, object] = {
            "request_id": f"s{self.answered}",
            "phase": "final",
            "status": "ok",
            "endpoint": "chat",
            "stream": True,
            "requested_model": model,
            "model": model,
            "finish_reason": "stop",
            "client_request_id": request.headers.get("x-request-id"),
            "accepted_at_ns": time.time_ns(),
            "accepted_ns": now_ns,
            "prompt_tokens": 7,
            "completion_tokens": len(TOKENS),
            "completion_bytes": len("".join(TOKENS).encode()),
            "state": StateBytes(
                attention_kv_bytes=1000,
                window_kv_bytes=0,
                ssm_state_bytes=24,
                conv_state_bytes=0,
                reserved_bytes=4096,
            ),
        }
        return RequestRecord(**(values | changes))

    def submit(self, record: RequestRecord) -> None:
        match record.model:
            case "forgotten":
                return
            case "doubled":
                self.sink.submit(structs.replace(record, request_id=record.request_id + "-again"))
            case "lying":
                record = structs.replace(record, completion_tokens=99)
            case "slow-way":  # sampled in no time, so that all of the client's time is the way
                record = structs.replace(
                    record, first_ns=record.accepted_ns + 1, last_ns=record.accepted_ns + 100_001
                )
        self.sink.submit(record)

    async def stream(self, record: RequestRecord) -> AsyncIterator[bytes]:
        if record.model == "stuck":
            try:
                await asyncio.sleep(60)
            finally:
                self.submit(structs.replace(record, status="cancelled"))
        for number, token in enumerate(TOKENS):
            await asyncio.sleep(0.005)
            if record.model == "broken" and number == 2:
                self.submit(structs.replace(record, status="failed"))
                yield event({"error": {"message": "…", "code": "engine_failed"}})
                return
            if record.model == "cut" and number == 2:
                self.submit(structs.replace(record, status="failed"))
                return
            now_ns = time.monotonic_ns()
            record = structs.replace(record, first_ns=record.first_ns or now_ns, last_ns=now_ns)
            yield event({"choices": [{"delta": {"content": token}, "finish_reason": None}]})
            yield b": ping\n\n"
        self.submit(record)
        yield event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        extras = {
            **msgspec.to_builtins(derive(record)),
            "request_id": record.request_id,
            "state": msgspec.to_builtins(record.state),
            "cold": False,
            "verified": record.model != "odd",
        }
        usage = {"prompt_tokens": 7, "completion_tokens": len(TOKENS)}
        yield event({"choices": [], "usage": usage, "metrics": extras})
        yield b"data: [DONE]\n\n"


def event(chunk: object) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def build(store: MemoryRecordStore, sink: RecordWriter) -> Litestar:
    answering = Answering(sink)

    @post("/v1/chat/completions", status_code=200)
    async def chat(request: Request) -> Response:
        model = (await request.json())["model"]
        record = answering.record(request, model)
        headers = {"x-request-id": record.request_id}
        if model == "busy":
            answering.submit(structs.replace(record, status="refused"))
            body = {"error": {"message": "…", "type": "service_unavailable", "code": "overloaded"}}
            return Response(body, status_code=503, headers=headers)
        return Stream(answering.stream(record), media_type="text/event-stream", headers=headers)

    @get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": model} for model in MODELS]}

    reports = Reports(store, sink)
    return Litestar(
        [chat, models, *record_handlers],
        on_shutdown=[reports.close],
        dependencies={
            "reports": Provide(lambda: reports, sync_to_thread=False),
        },
        exception_handlers=EXCEPTION_HANDLERS,
    )


@contextlib.contextmanager
def listening(app: object) -> Iterator[str]:
    """Serve an ASGI application in a thread, on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def running() -> Iterator[RunningService]:
    store = MemoryRecordStore()
    sink = RecordWriter(store)
    sink.start()
    with listening(build(store, sink)) as url:
        yield RunningService(url, store)
    sink.close()
