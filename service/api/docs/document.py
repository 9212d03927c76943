"""OpenAPI document, generated on first use."""

import asyncio
from collections.abc import Callable

import msgspec


class Description:
    """OpenAPI 3.1 document.

    Generating it takes most of a second, so it happens in a thread: streams must not stall.
    """

    def __init__(self, make: Callable[[], dict[str, object]]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._document: bytes | None = None

    async def document(self) -> bytes:
        """Return the document as JSON."""
        async with self._making:
            if self._document is None:
                self._document = msgspec.json.encode(await asyncio.to_thread(self._make))
        return self._document
