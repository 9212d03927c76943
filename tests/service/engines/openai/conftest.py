"""An engine before a scripted far side."""

import asyncio
from contextlib import aclosing

import pytest

from support.far_side import FarSide, engine_at, request


@pytest.fixture
def ask(tmp_path):
    """Starts an engine before a far side, and asks it once."""

    async def asked(prepare, prompt="Hi", *, dialect=None, start=None, limits=None, **sampling):
        far = FarSide(str(tmp_path / "far.sock"))
        prepare(far)
        server = await asyncio.start_unix_server(far.serve, far.path)
        engine = engine_at(far.path, dialect, limits=limits or {})
        async with server:
            try:
                await engine.start()
                if start is not None:
                    return await start(engine)
                async with aclosing(engine.generate(request(prompt, **sampling))) as events:
                    return far, [event async for event in events]
            finally:
                await engine.aclose()
                await far.finished()

    return asked
