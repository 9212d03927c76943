"""Flat columns of records, for CSV and Parquet.

Fields of nested structs become columns of the same name; tables such as `sampling` are JSON text.
"""

import typing
from collections.abc import Callable, Iterator

import msgspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from msgspec import Struct, structs

from service.core.events import ModelBuild
from service.core.limits import LimitShares
from service.core.metrics import RequestMetrics
from service.core.record import PARTS, RequestRecord
from service.serving.records.reported_record import ReportedRecord

_NESTED: dict[str, type[Struct]] = {
    **PARTS,
    "build": ModelBuild,
    "metrics": RequestMetrics,
    "limits": LimitShares,
}
_ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


def csv(batches: Iterator[list[ReportedRecord]]) -> Iterator[bytes]:
    """A CSV file with a header; unknown is an empty field, an empty text is `""`.

    A text that a spreadsheet would run as a formula is preceded by `'`.
    """
    return _written(batches, lambda sink: pyarrow.csv.CSVWriter(sink, SCHEMA), _without_formulas)


def parquet(batches: Iterator[list[ReportedRecord]]) -> Iterator[bytes]:
    """A Parquet file, compressed by zstd, with one row group a batch."""
    return _written(
        batches, lambda sink: pyarrow.parquet.ParquetWriter(sink, SCHEMA, compression="zstd")
    )


def to_row(record: ReportedRecord) -> dict[str, object]:
    """The flat row of a record."""
    row = structs.asdict(record)
    for name in _NESTED:
        nested = row.pop(name)
        if nested is not None:
            row.update(structs.asdict(nested))
    for name, value in row.items():
        if isinstance(value, dict):
            row[name] = msgspec.json.encode(value).decode()
    return row


def _schema() -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = []
    for name, kind in typing.get_type_hints(RequestRecord).items():
        if name not in _NESTED:
            fields.append((name, _arrow_type(kind)))
    for struct in _NESTED.values():
        fields += [(n, _arrow_type(kind)) for n, kind in typing.get_type_hints(struct).items()]
    return pa.schema(fields)


def _arrow_type(kind: object) -> pa.DataType:
    """The column type of a field: flags and numbers as such, everything else as text."""
    members = {kind, *typing.get_args(kind)}
    return next((arrow for python, arrow in _ARROW.items() if python in members), pa.string())


SCHEMA = _schema()


class _Sink:
    """A file object whose bytes are taken as they are written."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length_bytes = 0

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        self._length_bytes += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._length_bytes

    def flush(self) -> None:
        """Nothing is buffered."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _written(
    batches: Iterator[list[ReportedRecord]],
    writer_of: Callable[[_Sink], pyarrow.csv.CSVWriter | pyarrow.parquet.ParquetWriter],
    prepare: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda rows: rows,
) -> Iterator[bytes]:
    sink = _Sink()
    with writer_of(sink) as writer:
        yield sink.take()
        for batch in batches:
            rows = [to_row(record) for record in batch]
            writer.write_batch(prepare(pa.RecordBatch.from_pylist(rows, schema=SCHEMA)))
            yield sink.take()
    yield sink.take()


def _without_formulas(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Texts that begin as formulas do, made plain by a quote.

    Ref: https://owasp.org/www-community/attacks/CSV_Injection
    """
    columns = [
        pyarrow.compute.replace_substring_regex(column, r"^([=+\-@\t\r])", r"'\1")
        if pa.types.is_string(column.type)
        else column
        for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
