"""Client of /v1/experiments for the command line."""

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from service.cli.running_service import refusal, unreachable
from service.core.experiments.plan import Plan
from service.core.sse import SseReader

#: How long a watched experiment's service may be away: its restart continues the experiment.
AWAY_S: Final = 120.0
_RETRY_S: Final = 0.5


class ExperimentClient:
    """The experiments of one service. Every method raises ClickException with the reason."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.Client(base_url=url, timeout=httpx.Timeout(30))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def create(self, plan: Plan) -> dict[str, Any]:
        """Create an experiment."""
        return self._json("POST", "", content=msgspec.json.encode(plan))

    def get(self, experiment_id: str) -> dict[str, Any]:
        """One experiment."""
        return self._json("GET", f"/{experiment_id}")

    def page(self, limit: int) -> list[dict[str, Any]]:
        """The newest experiments."""
        found: list[dict[str, Any]] = self._json("GET", "", params={"limit": limit})["data"]
        return found

    def trials(self, experiment_id: str) -> list[dict[str, Any]]:
        """Trials that have ended."""
        found: list[dict[str, Any]] = self._json("GET", f"/{experiment_id}/trials")["data"]
        return found

    def cancel(self, experiment_id: str) -> dict[str, Any]:
        """Cancel an experiment."""
        return self._json("DELETE", f"/{experiment_id}")

    def report(self, experiment_id: str, form: str) -> bytes:
        """The report as `json`, `md` or `html`."""
        return self._send("GET", f"/{experiment_id}/report.{form}").content

    def events(self, experiment_id: str) -> Iterator[dict[str, Any]]:
        """Yield the progress until the experiment has ended, across a restart of the service."""
        away_since_s = None
        while True:
            try:
                for event in self._stream(f"/v1/experiments/{experiment_id}/events"):
                    away_since_s = None
                    if event is None:
                        return
                    yield event
            except httpx.HTTPError as error:
                now_s = time.monotonic()
                away_since_s = now_s if away_since_s is None else away_since_s
                if now_s - away_since_s > AWAY_S:
                    raise unreachable(self._url, error) from error
            time.sleep(_RETRY_S)

    def _stream(self, path: str) -> Iterator[dict[str, Any] | None]:
        """Events of one connection, None at the end of the experiment.

        An error event, as of a service that shuts down, ends the connection.
        """
        timeout = httpx.Timeout(30, read=None)
        with self._client.stream("GET", path, timeout=timeout) as answer:
            if answer.is_error and answer.status_code < 500:  # noqa: PLR2004
                answer.read()
                raise refusal(answer)
            reader = SseReader()
            for received in answer.iter_bytes():
                for data in reader.push(received):
                    if data == b"[DONE]":
                        yield None
                        return
                    event = json.loads(data)
                    if "error" in event and "object" not in event:
                        return
                    yield event

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 (httpx's)
        answer: dict[str, Any] = self._send(method, path, **options).json()
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 (httpx's)
        try:
            answer = self._client.request(method, f"/v1/experiments{path}", **options)
        except httpx.HTTPError as error:
            raise unreachable(self._url, error) from error
        if answer.is_error:
            raise refusal(answer)
        return answer
