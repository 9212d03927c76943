"""The client's times beside the service's own, request by request."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from loadtest.observation import Observation
from loadtest.plan import Validity
from service.core.metrics import Quantiles, derive, percentile, quantiles
from service.core.record import RequestRecord


class Agreement(Struct, frozen=True, kw_only=True):
    """Differences between client and server over the requests that both saw whole and warm.

    Nothing is subtracted from the client's times. The client's TTFT counts from the sending here,
    the server's from the accepted request, so their difference includes the network.
    """

    joined: int
    """Requests with a record."""
    server_ttft_ms: Quantiles
    server_tpot_ms: Quantiles
    ttft_difference_ms: Quantiles
    """client − server."""
    tpot_difference_ms: Quantiles
    """client − server."""
    ttft_distance_p50_ms: float | None
    """Median of |client − server|."""
    tpot_distance_p50_ms: float | None
    """Median of |client − server|."""
    tpot_distance_p50_percent: float | None
    """Median of |client − server| in percent of the server's."""


def agreement(
    observations: Sequence[Observation], records: Mapping[str, RequestRecord]
) -> Agreement:
    """Compare each observation with its record, by the client's own request id."""
    joined = [
        (seen, derive(records[seen.client_request_id]))
        for seen in observations
        if seen.client_request_id in records
    ]
    ttft_pairs = [
        (seen.ttft_from_sent_ms, times.ttft_ms)
        for seen, times in joined
        if seen.ttft_from_sent_ms is not None and times.ttft_ms is not None
    ]
    tpot_pairs = [
        (seen.tpot_ms, times.tpot_ms)
        for seen, times in joined
        if seen.tpot_ms is not None and times.tpot_ms
    ]
    return Agreement(
        joined=len(joined),
        server_ttft_ms=quantiles(theirs for _, theirs in ttft_pairs),
        server_tpot_ms=quantiles(theirs for _, theirs in tpot_pairs),
        ttft_difference_ms=quantiles(ours - theirs for ours, theirs in ttft_pairs),
        tpot_difference_ms=quantiles(ours - theirs for ours, theirs in tpot_pairs),
        ttft_distance_p50_ms=percentile((abs(ours - theirs) for ours, theirs in ttft_pairs), 0.5),
        tpot_distance_p50_ms=percentile((abs(ours - theirs) for ours, theirs in tpot_pairs), 0.5),
        tpot_distance_p50_percent=percentile(
            (100 * abs(ours - theirs) / theirs for ours, theirs in tpot_pairs), 0.5
        ),
    )


def disagreements(model: str, found: Agreement, bounds: Validity) -> Iterable[str]:
    """Reasons why the client's times of a model must not be used."""
    distance_ms = found.ttft_distance_p50_ms
    if distance_ms is not None and distance_ms > bounds.max_ttft_difference_ms:
        yield (
            f"{model}: client and server TTFT differ by {distance_ms:.1f} ms in the median, more "
            f"than {bounds.max_ttft_difference_ms:g} ms"
        )
    percent, tpot_ms = found.tpot_distance_p50_percent, found.tpot_distance_p50_ms
    if percent is None or tpot_ms is None:
        return
    # A millisecond on the way of the first token is many percent of a short answer's TPOT.
    least_ms = bounds.least_tpot_difference_ms
    if percent > bounds.max_tpot_difference_percent and tpot_ms > least_ms:
        yield (
            f"{model}: client and server TPOT differ by {percent:.1f} % in the median, more than "
            f"{bounds.max_tpot_difference_percent:g} %"
        )
