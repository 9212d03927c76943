"""Quarantine: refuses a request during which an engine has died twice."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from service.core.chat import ChatRequest
from service.core.errors import PoisonedRequest

DEATHS: Final = 2
"""Engine deaths of a request after which it is refused."""

TTL_S: Final = 3600.0
"""Lifetime of a suspicion without another death, in seconds."""

CAPACITY: Final = 4096
"""Largest number of suspects; beyond it the oldest suspicion is dropped."""


class _Suspicion(NamedTuple):
    deaths: int
    until_s: float


class Quarantine:
    """Suspects by fingerprint of model, prompt and sampling.

    A complete answer clears its request. Fingerprints are keyed with a secret of this process, so
    that no prompt can be guessed from them.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._key = secrets.token_bytes(32)
        self._suspicions: OrderedDict[bytes, _Suspicion] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Quarantine {len(self._suspicions)} suspects>"

    def check(self, request: ChatRequest) -> bool:
        """Return True for a suspect, which must run beside no other suspect.

        Raises PoisonedRequest for a request that is refused.
        """
        suspicion = self._find(self._fingerprint(request)) if self._suspicions else None
        if suspicion is None:
            return False
        if suspicion.deaths < DEATHS:
            return True
        left_min = max(1, round((suspicion.until_s - self._clock_s()) / 60))
        raise PoisonedRequest(
            f"The engine died {suspicion.deaths} times while it computed this request, so it is "
            f"refused for the next {left_min} min. Other requests are answered; change this one, "
            "and report it with the service's log."
        )

    def blame(self, request: ChatRequest) -> None:
        """Count an engine death against the request."""
        fingerprint = self._fingerprint(request)
        before = self._find(fingerprint)
        deaths = 1 + (before.deaths if before else 0)
        self._suspicions[fingerprint] = _Suspicion(deaths, self._clock_s() + TTL_S)
        self._suspicions.move_to_end(fingerprint)
        if len(self._suspicions) > CAPACITY:
            self._suspicions.popitem(last=False)

    def clear(self, request: ChatRequest) -> None:
        """Drop the suspicion: the request was answered."""
        if self._suspicions:
            self._suspicions.pop(self._fingerprint(request), None)

    def _find(self, fingerprint: bytes) -> _Suspicion | None:
        suspicion = self._suspicions.get(fingerprint)
        if suspicion is not None and suspicion.until_s <= self._clock_s():
            del self._suspicions[fingerprint]
            return None
        return suspicion

    def _fingerprint(self, request: ChatRequest) -> bytes:
        """Digest that is equal for equal requests to the same model."""
        sampling = msgspec.structs.replace(request.sampling, logit_bias={})
        biases = sorted(request.sampling.logit_bias.items())
        asked = msgspec.msgpack.encode(
            (request.model, request.prompt, sampling, biases, request.echo)
        )
        return hmac.digest(self._key, asked, hashlib.sha256)
