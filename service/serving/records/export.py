"""Export of records as JSON lines, CSV or Parquet, in batches of constant memory."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal

import msgspec

from service.core.limits import MachineLimits
from service.core.record import RequestRecord
from service.serving.records.reported_record import ReportedRecord

ExportFormat = Literal["jsonl", "csv", "parquet"]

MEDIA_TYPES: dict[ExportFormat, str] = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_BATCH_ROWS = 1000


def export(
    records: Iterable[RequestRecord], form: ExportFormat, limits: MachineLimits | None = None
) -> Iterator[bytes]:
    """Yield a file of *records* and what is derived from them, chunk by chunk."""
    encode = _encoder(form)
    return encode(_batches(ReportedRecord.of(record, limits) for record in records))


def _encoder(
    form: ExportFormat,
) -> Callable[[Iterator[list[ReportedRecord]]], Iterator[bytes]]:
    if form == "jsonl":
        return _json_lines
    # pyarrow takes a third of a second to import and is needed for nothing else.
    from service.serving.records import columns

    return columns.csv if form == "csv" else columns.parquet


def _json_lines(batches: Iterator[list[ReportedRecord]]) -> Iterator[bytes]:
    return (msgspec.json.Encoder().encode_lines(batch) for batch in batches)


def _batches(records: Iterator[ReportedRecord]) -> Iterator[list[ReportedRecord]]:
    while batch := list(islice(records, _BATCH_ROWS)):
        yield batch
