"""What sets two records apart."""

import msgspec
import pytest

from service.core.compare.comparison import (
    Difference,
    caveats,
    compare,
    difference,
    live_state_bytes,
)
from service.core.events import StateBytes
from service.core.work import Energy, Work


def test_differences_are_arm_minus_first_and_arm_over_first():
    """Half the time is −50 ms and a ratio of 0.5."""
    assert difference(50.0, 100.0) == Difference(absolute=-50.0, ratio=0.5)


@pytest.mark.parametrize(("value", "first"), [(None, 1.0), (1.0, None), (None, None)])
def test_a_difference_to_the_unknown_is_unknown(value, first):
    """Never 0."""
    assert difference(value, first) == Difference(absolute=None, ratio=None)


def test_a_ratio_to_nothing_is_unknown():
    """Attention's bytes against a pure SSM's 0: a difference, but no ratio."""
    assert difference(7, 0) == Difference(absolute=7, ratio=None)


def test_live_state_is_the_sum_of_its_four_kinds():
    """Reserved bytes are something else."""
    state = StateBytes(
        attention_kv_bytes=1, window_kv_bytes=2, ssm_state_bytes=4, conv_state_bytes=8,
        reserved_bytes=100,
    )  # fmt: skip
    assert live_state_bytes(state) == 15


def test_live_state_with_an_unknown_kind_is_unknown():
    """A sum over known parts would look smaller than it is."""
    assert live_state_bytes(StateBytes(attention_kv_bytes=1)) is None


def test_records_are_compared_by_derived_numbers(make_record):
    """TTFT from the same formula as everywhere, bytes from the state."""
    state = StateBytes(
        attention_kv_bytes=0, window_kv_bytes=0, ssm_state_bytes=50, conv_state_bytes=0
    )
    first = make_record("a", state=state)
    arm = make_record("b", first_ns=first.first_ns + 1_000_000, completion_tokens=5, state=state)
    found = compare(arm, first)
    assert found.ttft_ms == Difference(absolute=1.0, ratio=24 / 23)
    assert found.completion_tokens.absolute == -5
    assert found.state_bytes == Difference(absolute=0, ratio=1.0)


def test_a_plain_pair_has_only_the_general_caveat(make_record):
    """One pair is one pair."""
    records = [make_record("a"), make_record("b")]
    assert caveats(records, ["x", "x"], mode="isolated") == (
        "one pair of answers shows no distribution",
    )


@pytest.mark.parametrize(
    ("changes", "texts", "mode", "expected"),
    [
        ({"cold": True}, "xx", "isolated", "waited for its model"),
        ({"verified": False}, "xx", "isolated", "unverified"),
        ({"status": "failed"}, "xx", "isolated", "did not answer"),
        ({}, "xy", "isolated", "different texts"),
        ({}, "xx", "concurrent", "at the same time"),
    ],
)
def test_what_spoils_a_comparison_is_said(make_record, changes, texts, mode, expected):
    """Cold, unverified, failed, different or crowded arms are named."""
    found = caveats([make_record("a"), make_record("b", **changes)], texts, mode=mode)
    assert any(expected in caveat for caveat in found)


def test_different_kernels_are_said(make_record):
    """The same model on another kernel path is another machine."""
    first = make_record("a")
    build = msgspec.structs.replace(first.build, kernel_path="own-scan")
    found = caveats([first, make_record("b", build=build), None], ["x", "x"], mode="isolated")
    assert "the arms ran on different kernels" in found


def test_work_is_compared_by_its_counts(make_record):
    """Ratios of operations and bytes, which no noise touches."""
    first = make_record("a", work=Work(decode_flops=100, state_bytes_read=0))
    found = compare(make_record("b", work=Work(decode_flops=50, state_bytes_read=7)), first)
    assert found.decode_flops == Difference(absolute=-50, ratio=0.5)
    assert found.state_bytes_read == Difference(absolute=7, ratio=None)
    assert found.prefill_flops == Difference(absolute=None, ratio=None)


def test_an_estimate_is_not_compared_with_what_was_counted(make_record):
    """Energies of two kinds of source have no difference, and an estimate is said."""
    counted = make_record("a", energy=Energy(energy_uj=8, energy_source="rapl"))
    estimated = make_record("b", energy=Energy(energy_uj=4, energy_source="estimate"))
    assert compare(estimated, counted).energy_uj == Difference(absolute=None, ratio=None)
    assert compare(counted, counted).energy_uj == Difference(absolute=0, ratio=1.0)
    said = caveats([counted, estimated], ["x", "x"], mode="isolated")
    assert "the energy of an arm is an estimate from power.watts" in said
