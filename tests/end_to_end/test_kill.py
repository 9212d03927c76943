"""kill -9 of the service under load: no accepted request may lose its row."""

import asyncio
import random

import httpx
import pytest

ROUNDS = 20


async def load_until_it_dies(base_url: str, seen: set[str]) -> None:
    """Ask as many questions at once as fit, and remember every request id that came back."""

    async def ask(client: httpx.AsyncClient) -> None:
        body = {
            "model": "echo",
            "stream": random.random() < 0.5,
            "messages": [{"role": "user", "content": "one two three four five six"}],
        }
        try:
            while True:
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    if answer.status_code == 200:
                        seen.add(answer.headers["x-request-id"])
                    await answer.aread()
        except httpx.TransportError:
            return

    async with httpx.AsyncClient(base_url=base_url, timeout=10) as client:
        await asyncio.gather(*(ask(client) for _ in range(8)))


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_every_accepted_request_keeps_one_row(start_service, echo_options):
    """After twenty kills under load each answered request has one row, and none still runs."""
    seen: set[str] = set()

    async def one_round() -> None:
        service = start_service(*echo_options)
        service.wait_ready()
        loading = asyncio.create_task(load_until_it_dies(service.base_url, seen))
        await asyncio.sleep(random.uniform(0.1, 0.6))
        service.kill()
        await loading

    for _ in range(ROUNDS):
        asyncio.run(one_round())

    last = start_service(*echo_options)
    last.wait_ready()
    rows: list[dict] = []
    cursor: str | None = ""
    while cursor is not None:
        page = httpx.get(
            f"{last.base_url}/v1/records",
            params={"limit": 1000, "cursor": cursor} if cursor else {"limit": 1000},
        ).json()
        rows += page["data"]
        cursor = page["next_cursor"]
    ids = [row["request_id"] for row in rows]

    assert len(seen) > ROUNDS
    assert len(ids) == len(set(ids))
    assert seen <= set(ids)
    assert {row["status"] for row in rows} <= {"ok", "cancelled", "failed", "interrupted"}
