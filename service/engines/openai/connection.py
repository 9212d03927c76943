"""HTTP connection to another server: requests within time limits, failures as errors of ours."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol, cast

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from service.core.errors import EngineFailed
from service.core.sse import SseReader
from service.engines.openai.errors import FarSide
from service.engines.openai.reachability import Reachability
from service.engines.openai.server import OpenAiServer

CONNECTION_ERRORS: Final = (httpx.HTTPError, aiohttp.ClientError)
"""What a connection raises: the transport passes on aiohttp's errors for what is not HTTP."""

QUESTION_S: Final = 30.0
"""Longest wait for an answer to a question about the server itself."""

END_S: Final = 1.0
"""Wait for the end of a response whose answer is complete: the connection can then be reused."""

LONGEST_ERROR_BYTES: Final = 64 * 1024
"""What is read of a refusal: many times the message that is kept of it."""


class Progress(Protocol):
    """Answer that is being received."""

    @property
    def pieces(self) -> int:
        """Pieces that have arrived, each with one token or more."""

    @property
    def complete(self) -> bool:
        """Nothing more will come."""


class Connection:
    """Connection pool to one server."""

    def __init__(self, far_side: FarSide) -> None:
        self._far_side = far_side
        self._server = far_side.server
        self._client = _client(far_side.server)
        self._root = far_side.server.base_url.rstrip("/").removesuffix("/v1")
        self._reachability = Reachability(f"The server of {far_side.model_id}")

    def trouble(self) -> str | None:
        """Say why the server cannot answer now, None if it is not known to be out of reach."""
        return self._reachability.trouble()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, path: str) -> Any:  # noqa: ANN401 (whatever JSON the server sends)
        """Return the server's answer to a GET request. Raises as httpx does, or ModelNotReady."""
        response = await self._client.get(self._root + path, timeout=QUESTION_S)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self._far_side.of_status(response.status_code, response.headers, b"")
        response.raise_for_status()
        return msgspec.json.decode(response.content)

    async def ask(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Post a question; return the answer. Raises a TriptychError for any other response."""
        content = msgspec.json.encode(asked)
        try:
            response = await self._open().post(
                self._root + path, content=content, timeout=QUESTION_S
            )
        except CONNECTION_ERRORS as error:
            raise self._unreached(error) from error
        self._reachability.reached()
        if response.status_code != httpx.codes.OK:
            raise self._far_side.of_status(response.status_code, response.headers, response.content)
        return cast("dict[str, Any]", response.json())

    @asynccontextmanager
    async def stream(self, path: str, content: bytes) -> AsyncGenerator[httpx.Response]:
        """Post a request; give its response, of whatever status, while its body arrives."""
        client = self._open()
        async with AsyncExitStack() as stack:
            opening = client.stream("POST", self._root + path, content=content)
            try:
                async with asyncio.timeout(self._server.first_byte_s):
                    response = await stack.enter_async_context(opening)
            except CONNECTION_ERRORS as error:
                raise self._unreached(error) from error
            except TimeoutError:
                limit_s = self._server.first_byte_s
                self._reachability.failed(f"no response within {limit_s:g} s")
                raise self._far_side.silent(limit_s) from None
            self._reachability.reached()
            yield response

    async def events(
        self, response: httpx.Response, answer: Progress
    ) -> AsyncGenerator[tuple[int, list[bytes]]]:
        """Yield the data of events with the time (ns, CLOCK_MONOTONIC) that they arrived at.

        Once the answer has begun, only its tokens and its end reset the time limit.
        """
        # Bytes as they came are cheaper, where nothing has to be decoded.
        encoded = "content-encoding" in response.headers
        arriving = response.aiter_bytes() if encoded else response.aiter_raw()
        reader = SseReader()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limit_s(answer)
        while True:
            try:
                async with asyncio.timeout_at(deadline_s):
                    received = await anext(arriving, None)
            except CONNECTION_ERRORS as error:
                raise self._far_side.broke(error) from error
            except TimeoutError:
                if answer.complete:
                    return
                raise self._far_side.silent(self._limit_s(answer)) from None
            if received is None:
                return
            at_ns = time.monotonic_ns()
            try:
                events = reader.push(received)
            except ValueError as error:
                raise self._far_side.failed("sent an event that is too long", str(error)) from error
            before = answer.pieces, answer.complete
            if events:
                yield at_ns, events
            if not answer.pieces or (answer.pieces, answer.complete) != before:
                deadline_s = loop.time() + self._limit_s(answer)

    def _limit_s(self, answer: Progress) -> float:
        """Longest wait for the next sign of life."""
        if answer.complete:
            return END_S
        return self._server.between_tokens_s if answer.pieces else self._server.first_byte_s

    async def read(self, response: httpx.Response) -> bytes:
        """Read the beginning of the body of a response that is no stream."""
        content = bytearray()
        try:
            async with asyncio.timeout(min(QUESTION_S, self._server.first_byte_s)):
                async for received in response.aiter_bytes():
                    content += received
                    if len(content) >= LONGEST_ERROR_BYTES:
                        break
        except (*CONNECTION_ERRORS, TimeoutError) as error:
            status = f"answered with status {response.status_code}"
            raise self._far_side.failed(status, "its body did not arrive") from error
        return bytes(content)

    def _unreached(self, error: Exception) -> EngineFailed:
        timed_out = isinstance(error, httpx.TimeoutException | TimeoutError)
        self._reachability.failed("no answer in time" if timed_out else "the connection failed")
        return self._far_side.broke(error)

    def _open(self) -> httpx.AsyncClient:
        if self._client.is_closed:
            raise EngineFailed(f"{self._far_side.model_id} is closed.")
        return self._client


def _client(server: OpenAiServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=0)  # aiohttp's word for as many as are asked for
    # Uncompressed: a compressor would hold tokens back.
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if server.api_key is not None:
        headers["authorization"] = f"Bearer {server.api_key}"
    return httpx.AsyncClient(
        # httpx's own transport takes some 65 µs more for each piece that arrives: measured with
        # `benchmarks/service_overhead.py --remote --itl-ms 20`.
        transport=AiohttpTransport(uds=server.uds, limits=limits),
        timeout=httpx.Timeout(None, connect=server.connect_s),
        headers=headers,
    )
