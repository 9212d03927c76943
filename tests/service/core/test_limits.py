"""Shares of the machine's limits: work over time over the measured rate, or unknown."""

import msgspec
import pytest

from service.core.events import ModelBuild
from service.core.limits import LimitShares, MachineLimits, limit_shares
from service.core.work import Work

LIMITS = MachineLimits(
    device="cpu", threads=2, flops_per_s={"float32": 1e12}, bytes_per_s=1e10, measured_at_ns=1
)
BUILD = ModelBuild(
    weights_sha256=None,
    dtype="float32",
    quantization=None,
    engine="torch",
    engine_version="",
    device="cpu",
    kernel_path="compiled",
)
#: 10 ms of prefill and 20 ms of decode.
FACTS = {
    "scheduled_ns": 10_000_000,
    "first_ns": 20_000_000,
    "last_ns": 40_000_000,
    "co_scheduled": 0,
    "build": BUILD,
    "work": Work(prefill_flops=5_000_000_000, decode_flops=2_000_000_000, decode_bytes=100_000_000),
}


def test_a_share_is_work_over_time_over_the_limit(make_record):
    """Half of the operations in prefill; in decode a tenth of them, and half of the bytes."""
    found = limit_shares(make_record("r", **FACTS), LIMITS)
    assert found == LimitShares(
        prefill_flops_share=pytest.approx(0.5),
        decode_flops_share=pytest.approx(0.1),
        decode_bytes_share=pytest.approx(0.5),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"co_scheduled": 1},
        {"co_scheduled": None},
        {"status": "cancelled"},
        {"build": msgspec.structs.replace(BUILD, device="cuda:0")},
        {"work": Work()},
    ],
)
def test_what_says_nothing_of_the_machine_is_unknown(make_record, changes):
    """Steps that others shared, requests cut short, other devices, and unknown work."""
    assert limit_shares(make_record("r", **FACTS | changes), LIMITS) == LimitShares()


def test_limits_that_were_not_measured_are_not_guessed(make_record):
    """Without `triptych limits` there are no shares."""
    assert limit_shares(make_record("r", **FACTS), None) == LimitShares()


def test_operations_on_quantized_weights_have_no_limit_here(make_record):
    """Their products run at another rate; the bytes that are read count all the same."""
    build = msgspec.structs.replace(BUILD, quantization="int8")
    found = limit_shares(make_record("r", **FACTS | {"build": build}), LIMITS)
    assert found == LimitShares(decode_bytes_share=pytest.approx(0.5))
