"""Limits of the machine as they were measured, and how near to them a request came."""

from msgspec import Struct

from service.core.metrics import elapsed_ns
from service.core.record import RequestRecord


class MachineLimits(Struct, frozen=True, kw_only=True):
    """Rates of one device that no program exceeds: the best of repeated measurements."""

    device: str
    """`cpu` or `cuda`."""
    threads: int
    flops_per_s: dict[str, float]
    """Of products of large matrices, by the dtype of their elements."""
    bytes_per_s: float
    """Of reading more memory than any cache holds."""
    measured_at_ns: int
    """Wall clock."""


class LimitShares(Struct, frozen=True, kw_only=True):
    """Shares of the machine's limits that a request reached, where it was computed alone."""

    prefill_flops_share: float | None = None
    """prefill_flops / prefill time / flops_per_s of the weights' dtype."""
    decode_flops_share: float | None = None
    """decode_flops / decode time / flops_per_s of the weights' dtype."""
    decode_bytes_share: float | None = None
    """decode_bytes / decode time / bytes_per_s; above 1 where weights stay in a cache."""


def limit_shares(record: RequestRecord, limits: MachineLimits | None) -> LimitShares:
    """Shares of *limits*: the roofline of Williams et al. 2009, by the request's work.

    None where limits were not measured or are another device's, where other requests shared its
    steps, and where the work is unknown; of quantized weights the operations have no limit here.
    """
    build, work = record.build, record.work
    if limits is None or build is None or record.co_scheduled != 0 or record.status != "ok":
        return LimitShares()
    if build.device.partition(":")[0] != limits.device:
        return LimitShares()
    flops_per_s = None if build.quantization else limits.flops_per_s.get(build.dtype)
    prefill_ns = elapsed_ns(record.first_ns, record.scheduled_ns)
    decode_ns = elapsed_ns(record.last_ns, record.first_ns)
    return LimitShares(
        prefill_flops_share=_share(work.prefill_flops, prefill_ns, flops_per_s),
        decode_flops_share=_share(work.decode_flops, decode_ns, flops_per_s),
        decode_bytes_share=_share(work.decode_bytes, decode_ns, limits.bytes_per_s),
    )


def _share(count: int | None, duration_ns: int | None, per_s: float | None) -> float | None:
    if not count or not duration_ns or duration_ns < 0 or not per_s:
        return None
    return count * 1e9 / duration_ns / per_s
