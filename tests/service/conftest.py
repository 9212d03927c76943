"""What the tests of the use cases start from."""

import asyncio

import pytest

from support.bench import Bench


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def bench(tmp_path):
    """Builds a bench with the given options; to be called inside a running loop."""
    return lambda **options: Bench(tmp_path, **options)


@pytest.fixture
def settle():
    """Lets everything that can run do so."""
    return _settle
