"""The machine's limits are measured with torch."""

from service.torch_host.limits import DTYPES, measure


def test_every_limit_is_measured():
    """Small sizes: that the rates are those of large ones is not tested."""
    found = measure(sides=(32, 64), read_bytes=2**16)
    assert set(found.flops_per_s) == set(DTYPES[found.device])
    assert min(found.flops_per_s.values()) > 0
    assert found.bytes_per_s > 0
