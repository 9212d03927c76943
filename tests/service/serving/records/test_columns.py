"""Exports lose no field."""

from collections.abc import Callable

from msgspec import structs

from service.core.limits import LimitShares
from service.core.record import RequestRecord
from service.serving.records.columns import SCHEMA, to_row
from service.serving.records.reported_record import ReportedRecord

MakeRecord = Callable[..., RequestRecord]


def test_every_field_has_one_column(make_record: MakeRecord) -> None:
    """Fields of the record and of what it holds are columns, and no two share a name."""
    row = to_row(ReportedRecord.of(make_record("r")))

    assert len(SCHEMA.names) == len(set(SCHEMA.names))
    assert set(SCHEMA.names) == set(row)


def test_numbers_stay_numbers(make_record: MakeRecord) -> None:
    """Columns have the types of their fields: integers exact, rates as floats, flags as flags."""
    kinds = {name: str(SCHEMA.field(name).type) for name in SCHEMA.names}

    assert kinds["accepted_at_ns"] == kinds["ssm_state_bytes"] == kinds["arm"] == "int64"
    assert (kinds["tpot_ms"], kinds["cold"], kinds["verified"]) == ("double", "bool", "bool")
    assert (kinds["status"], kinds["sampling"], kinds["dtype"]) == ("string",) * 3


def test_the_reported_record_holds_the_record(make_record: MakeRecord) -> None:
    """Reporting adds metrics and shares of the limits, and changes nothing."""
    record = make_record("r", sampling={"seed": 1})

    reported = structs.asdict(ReportedRecord.of(record))

    metrics = reported.pop("metrics")
    assert reported.pop("limits") == LimitShares()
    assert reported == structs.asdict(record)
    assert metrics.ttft_ms == 23.0
