"""A summary counts everything and measures what was answered whole."""

from collections.abc import Callable

from service.core.events import StateBytes
from service.core.record import RequestRecord
from service.core.summary import summarize
from service.core.work import Energy

MakeRecord = Callable[..., RequestRecord]


def test_nothing_sums_up_to_nothing() -> None:
    """Without records counts are 0, sums are unknown and there is no group."""
    summary = summarize([])

    assert summary.groups == ()
    assert (summary.total.count, summary.total.completion_tokens) == (0, None)
    assert summary.total.metrics["ttft_ms"].p50 is None


def test_every_status_is_counted(make_record: MakeRecord) -> None:
    """All records count, whatever ended them."""
    statuses = ["ok", "ok", "cancelled", "refused", "interrupted"]

    total = summarize(make_record("r", status=status) for status in statuses).total

    assert total.count == 5
    assert total.by_status == {"ok": 2, "cancelled": 1, "refused": 1, "interrupted": 1}


def test_only_whole_answers_are_measured(make_record: MakeRecord) -> None:
    """A cancelled request spoils no percentile, though its tokens are counted."""
    records = [make_record("a"), make_record("b", status="cancelled", last_ns=6_000_000_000)]

    total = summarize(records).total

    assert total.metrics["e2e_ms"].count == 1
    assert total.metrics["e2e_ms"].max == 113.0
    assert total.completion_tokens == 20


def test_cold_requests_count_only_as_loads(make_record: MakeRecord) -> None:
    """A request that waited for a load is in `load_ms` and in no other time."""
    records = [make_record("a"), make_record("b", cold=True, load_ns=2_000_000)]

    total = summarize(records).total

    assert total.cold == 1
    assert (total.metrics["load_ms"].count, total.metrics["load_ms"].p50) == (1, 2.0)
    assert total.metrics["ttft_ms"].count == 1


def test_verified_and_unverified_are_told_apart_from_unknown(make_record: MakeRecord) -> None:
    """The probe's verdicts are counted; a model that was not probed is neither."""
    records = [make_record("r", verified=verdict) for verdict in (True, True, False, None)]

    total = summarize(records).total

    assert (total.verified, total.unverified) == (2, 1)


def test_unknown_state_is_not_zero(make_record: MakeRecord) -> None:
    """State that no record knows has no percentile; known zeros have one."""
    records = [make_record("a", state=StateBytes(ssm_state_bytes=0))]

    state = summarize(records).total.state

    assert state["ssm_state_bytes"].p50 == 0
    assert (state["attention_kv_bytes"].count, state["attention_kv_bytes"].p50) == (0, None)


def test_groups_are_models_and_variants(make_record: MakeRecord) -> None:
    """Each variant is a group of its own, and so are requests that reached no model."""
    records = [
        make_record("a"),
        make_record("b", variant="int8"),
        make_record("c", model=None, variant=None),
    ]

    groups = summarize(records).groups

    assert [(group.model, group.summary.count) for group in groups] == [
        (None, 1), ("m", 1), ("m:int8", 1),
    ]  # fmt: skip


def test_windows_are_aligned_and_keep_the_total(make_record: MakeRecord) -> None:
    """A record belongs to the window that its wall clock falls into; all are in the total."""
    records = [make_record("r", accepted_at_ns=at_ns) for at_ns in (0, 9, 10, 25)]

    summary = summarize(records, window_ns=10)

    assert [group.window_start_ns for group in summary.groups] == [0, 10, 20]
    assert [group.summary.count for group in summary.groups] == [2, 1, 1]
    assert summary.total.metrics["ttft_ms"].count == 4


def test_energy_is_summed_up_by_its_source(make_record: MakeRecord) -> None:
    """An estimate is not added to what was counted, and unknown energy is not 0."""

    def spent(energy_uj: int, source: str) -> Energy:
        return Energy(energy_uj=energy_uj, energy_source=source, energy_shared=False)

    energies = [spent(5, "rapl"), spent(7, "rapl"), spent(100, "estimate"), Energy()]

    total = summarize(make_record("r", energy=each) for each in energies).total

    assert total.energy_uj == {"estimate": 100, "rapl": 12}
    assert summarize([make_record("r")]).total.energy_uj == {}
