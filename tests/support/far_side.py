"""A scripted server of the OpenAI API on a UNIX socket."""

import asyncio
import contextlib
import json
import time

from model_registry.spec import ModelSpec, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling
from service.engines.openai.engine import OpenAiEngine
from service.engines.openai.server import OpenAiServer

MODELS = {"data": [{"id": "far", "max_model_len": 2048}]}

#: vLLM 0.32, `--enable-per-request-metrics`.
VLLM = [
    {
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        ],
        "prompt_token_ids": [1, 9690, 198],
    },
    {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "I"},
                "logprobs": {
                    "content": [
                        {
                            "token": "I",
                            "logprob": -0.5,
                            "bytes": [73],
                            "top_logprobs": [
                                {"token": "I", "logprob": -0.5, "bytes": [73]},
                                {"token": "Hello", "logprob": -1.5, "bytes": [72]},
                            ],
                        }
                    ]
                },
                "finish_reason": None,
                "token_ids": [57],
            }
        ]
    },
    {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "'m"},
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": [5248],
            }
        ]
    },
    {
        "choices": [],
        "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2},
        "metrics": {"time_to_first_token_ms": 0.004, "queue_time_ms": 0.001},
    },
]
#: A server that knows the OpenAI API and no more.
PLAIN = [
    {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": " you"}, "finish_reason": "stop"}]},
]


class FarSide:
    """A server on a UNIX socket that answers every question about it, and requests as told."""

    def __init__(self, path):
        self.path = path
        self.serving = set()
        self.heads = []
        self.asked = []
        self.answer = (200, "", b"")
        self.raw = None
        self.script = None
        """Pieces of a response body, and waits in seconds between them; then the far side hangs."""
        self.files = {"/v1/models": MODELS}

    async def serve(self, reader, writer):
        """Answer one connection."""
        self.serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):  # whoever gives up may leave bytes unread
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def finished(self):
        """Return when no connection is open any more."""
        async with asyncio.timeout(5):
            await asyncio.gather(*self.serving, return_exceptions=True)

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        status, headers, content = 200, "", json.dumps(self.files.get(path)).encode()
        if method == "POST":
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            self.heads.append(head.lower())
            self.asked.append(json.loads(await reader.readexactly(length)))
            if self.script is not None:
                await self._play(reader, writer)
                return
            status, headers, content = self.answer
            if self.raw is not None:
                writer.write(self.raw)
                return
        elif path not in self.files:
            status, content = 404, b""
        writer.write(
            f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {len(content)}\r\n"
            f"{headers}\r\n".encode()
            + content
        )

    def streams(self, chunks, done=True):
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        self.answer = (200, "", (events + "data: [DONE]\n\n" * done).encode())

    async def _play(self, reader, writer):
        """Send what the script says, then nothing until the other side hangs up."""
        for each in self.script:
            if isinstance(each, bytes):
                writer.write(each)
                await writer.drain()
            else:
                await asyncio.sleep(each)
        await reader.read()


def engine_at(path, dialect=None, limits=None, **options):
    spec = ModelSpec(
        id="near", family="ssm", licence="MIT", context_tokens=2048, sources=(), engine="openai"
    )
    model = ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None)
    server = OpenAiServer(
        base_url="http://far/v1", model="far", uds=path, dialect=dialect, **(limits or {})
    )
    return OpenAiEngine(model, server, **options)


def request(prompt, *, of_request=None, **sampling):
    return ChatRequest(
        request_id="r",
        model="near",
        prompt=ChatPrompt((Message(role="user", content=prompt),))
        if isinstance(prompt, str)
        else prompt,
        sampling=Sampling(**sampling),
        accepted_ns=time.monotonic_ns(),
        accepted_at_ns=0,
        **(of_request or {}),
    )
