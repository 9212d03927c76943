"""TokenCounts: occurrences of the tokens of a sequence."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class TokenCounts:
    """Counts of distinct tokens in growing arrays: a penalty costs time in proportion to them."""

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._places: dict[int, int] = {}
        for token_id in token_ids:
            self._places.setdefault(token_id, len(self._places))
        size = len(self._places)
        self._ids = np.fromiter(self._places, dtype=np.int64, count=size)
        self._counts = np.ones(size, dtype=np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Distinct tokens, (n,)."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """Occurrences of each of them, (n,)."""
        return self._counts[: len(self._places)]

    def add(self, token_id: int) -> None:
        """Count a token."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            room = max(64, place)
            self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
        self._ids[place] = token_id
        self._counts[place] += 1
