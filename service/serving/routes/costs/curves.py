"""Curves: costs by length of every model, fitted to the requests that were measured here."""

import importlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from service.core.metrics import RequestMetrics, derive
from service.core.ports import RecordFilter, RecordStore
from service.core.record import RequestRecord
from service.core.routes.curves import AskedCost
from service.core.routes.facts import Prediction
from service.core.routes.route import CheapestRoute, Route
from service.core.summary import served_id
from service.serving.routes.costs.model_curves import ModelCurves
from service.serving.routes.costs.observation import Observation

#: Latest records that a start reads.
WARM_UP_RECORDS: Final = 2000
_PAGE: Final = 500
_SETUP: Final = ("engine", "device", "kernel_path", "dtype", "quantization")


class Curves:
    """Learns from every request that finishes; a request observer. Memory is bounded a model."""

    def __init__(self) -> None:
        self._models: dict[str, ModelCurves] = {}
        self._setups: dict[str, tuple[object, ...]] = {}

    def __repr__(self) -> str:
        return f"<Curves {self._models}>"

    # As an observer of requests

    def started(self, record: RequestRecord) -> None:
        """Nothing is known yet."""

    def generated(self, record: RequestRecord, tokens: int) -> None:
        """Nothing that the end does not tell better."""

    def finished(self, record: RequestRecord, metrics: RequestMetrics) -> None:
        """Learn from a request."""
        model = served_id(record.model, record.variant)
        seen = Observation.of(record, metrics)
        if model is None or seen is None:
            return
        setup = _setup(record)
        if self._setups.get(model) != setup:  # what was measured before says nothing of it
            self._models[model], self._setups[model] = ModelCurves(), setup
        self._models[model].add(seen)

    def learn(self, records: Iterable[RequestRecord]) -> None:
        """Learn from records, oldest first."""
        for record in records:
            self.finished(record, derive(record))

    @staticmethod
    def prepare(route: Route) -> None:
        """Import what fitting takes, if the route asks for costs. Blocks for a tenth of a second.

        The event loop would otherwise stand still at the route's first request.
        """
        if isinstance(route, CheapestRoute):
            importlib.import_module("numpy")

    # As what routes ask

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int | None:
        """Likely tokens of a prompt's text in a model's tokens; None without observations."""
        known = self._models.get(model)
        return None if known is None else known.prompt_tokens(prompt_bytes)

    def answer_tokens(self, models: tuple[str, ...]) -> int | None:
        """Median length of the latest answers of these models; None without any."""
        answers = [
            tokens for model in models if model in self._models
            for tokens in self._models[model].answers
        ]  # fmt: skip
        return round(statistics.median(answers)) if answers else None

    def predict(self, model: str, asked: AskedCost) -> Prediction | None:
        """Cost of a request on a model; None without observations."""
        known = self._models.get(model)
        return None if known is None else known.predict(asked)


def _setup(record: RequestRecord) -> tuple[object, ...]:
    """What a model's costs depend on beside lengths and load."""
    build = record.build
    return () if build is None else tuple(getattr(build, name) for name in _SETUP)


def latest_answers(store: RecordStore) -> Sequence[RequestRecord]:
    """The latest complete answers of a store, oldest first. Blocks."""
    found: list[RequestRecord] = []
    cursor: str | None = None
    while len(found) < WARM_UP_RECORDS:
        page = store.page(RecordFilter(status="ok"), limit=_PAGE, cursor=cursor)
        found += page.records
        cursor = page.next_cursor
        if cursor is None:
            break
    return found[::-1]
