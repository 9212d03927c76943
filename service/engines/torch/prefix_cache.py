"""PrefixCacheControl: cap, salts and use of the host's prefix cache, as the service sees it."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from service.core.runtime import PrefixCacheUse
from service.engines.torch.protocol.messages import LimitPrefixCache

STEPS: Final = 16
"""The cap is raised again in steps of this part of it, so that few messages say so."""


class PrefixCacheControl:
    """What the host may keep of earlier prompts, and who may find it."""

    def __init__(self, max_bytes: int, send: Callable[[LimitPrefixCache], None]) -> None:
        self.max_bytes = max_bytes
        self.use: PrefixCacheUse | None = None
        """Latest report of the host; None before the first."""
        self._send = send
        self._limit = LimitPrefixCache(max_bytes)
        # The host's cache ends with its process, so nothing outlives the service that needs it.
        self._secret = secrets.token_bytes(32)

    def __repr__(self) -> str:
        return f"<PrefixCacheControl {self._limit.max_bytes} of {self.max_bytes} bytes>"

    def spare(self, free_bytes: int) -> None:
        """Lower the cap to what models and running requests leave of the memory budget."""
        wanted = max(0, min(self.max_bytes, free_bytes))
        now = self._limit.max_bytes
        if wanted < now or wanted == self.max_bytes != now or (wanted - now) * STEPS > wanted:
            self._limit = LimitPrefixCache(wanted)
            self._send(self._limit)

    def tell(self) -> None:
        """Tell a new process its cap."""
        self.use = None
        self._send(self._limit)

    def salt(self, principal: str, cache_salt: str | None) -> str:
        """Salt that the host sees: of who asks, and on top of that of what the client gave.

        No client can choose it: a salt that is guessed finds nothing of another principal's.
        """
        parts = msgspec.msgpack.encode((principal, cache_salt))
        return hmac.new(self._secret, parts, hashlib.sha256).hexdigest()
