"""Measured limits are kept in the data folder."""

from service.core.limits import MachineLimits
from service.telemetry.limits import LIMITS_NAME, read_limits, write_limits

LIMITS = MachineLimits(
    device="cpu", threads=2, flops_per_s={"float32": 1e12}, bytes_per_s=1e10, measured_at_ns=1
)


def test_limits_are_read_as_they_were_written(tmp_path):
    """Later ones replace earlier ones, and nothing else is left in the folder."""
    write_limits(tmp_path / "data", LIMITS)
    write_limits(tmp_path / "data", LIMITS)
    assert read_limits(tmp_path / "data") == LIMITS
    assert [file.name for file in (tmp_path / "data").iterdir()] == [LIMITS_NAME]


def test_missing_and_broken_limits_are_unknown(tmp_path, caplog):
    """A broken file is told and does not keep the service from starting."""
    assert read_limits(tmp_path) is None
    (tmp_path / LIMITS_NAME).write_text('{"device": "cpu"}')
    assert read_limits(tmp_path) is None
    assert "run: triptych limits" in caplog.text
