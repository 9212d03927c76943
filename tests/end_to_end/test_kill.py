"""kill -9 of the service under load: no accepted request may lose its row."""

import asyncio
import json
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


def all_rows(base_url: str) -> list[dict]:
    """Every record that a service has."""
    rows: list[dict] = []
    cursor: str | None = ""
    while cursor is not None:
        page = httpx.get(
            f"{base_url}/v1/records",
            params={"limit": 1000, "cursor": cursor} if cursor else {"limit": 1000},
        ).json()
        rows += page["data"]
        cursor = page["next_cursor"]
    return rows


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
    rows = all_rows(last.base_url)
    ids = [row["request_id"] for row in rows]

    assert len(seen) > ROUNDS
    assert len(ids) == len(set(ids))
    assert seen <= set(ids)
    assert {row["status"] for row in rows} <= {"ok", "cancelled", "failed", "interrupted"}


@pytest.mark.chaos
def test_a_comparison_that_is_killed_keeps_a_row_of_each_arm_that_began(
    start_service, echo_options
):
    """After kill -9 in the second arm, the first arm's row is ok and the second's interrupted."""
    service = start_service(*echo_options)
    service.wait_ready()
    body = {
        "messages": [{"role": "user", "content": "one two three four " * 50}],
        "arms": [{"model": "echo"}, {"model": "echo-ssm"}],
        "order_seed": 1,
        "stream": True,
    }
    arms: set[int] = set()
    with httpx.stream("POST", f"{service.base_url}/v1/compare", json=body, timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                arms |= {json.loads(line.removeprefix("data: ")).get("arm")} - {None}
            if len(arms) == 2:
                break
        service.kill()

    last = start_service(*echo_options)
    last.wait_ready()
    rows = [row for row in all_rows(last.base_url) if row["comparison_id"]]
    assert sorted(row["arm"] for row in rows) == [0, 1]
    assert sorted(row["status"] for row in rows) == ["interrupted", "ok"]
