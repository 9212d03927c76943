"""Work and energy of a request, as its record keeps them."""

from msgspec import Struct


class Work(Struct, frozen=True, kw_only=True):
    """What a request had to compute and move, by `model_registry.work`; None where unknown."""

    prefill_flops: int | None = None
    decode_flops: int | None = None
    weight_bytes_read: int | None = None
    state_bytes_read: int | None = None
    state_bytes_written: int | None = None
    decode_bytes: int | None = None
    """What decode steps read and write of these, weights and state together."""


class Energy(Struct, frozen=True, kw_only=True):
    """Energy of a request; None where no counter can be read."""

    energy_uj: int | None = None
    """Microjoules."""
    energy_source: str | None = None
    """`rapl`, `nvml`, or `estimate` from `power.watts`."""
    energy_shared: bool | None = None
    """Whether other requests were computed meanwhile."""
