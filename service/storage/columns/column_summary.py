"""Summaries of columns: as `core.summary.summarize` of records, for a million of them.

NumPy selects, sums and finds ranks outside the interpreter's lock, one field at a time.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.core.events import StateBytes
from service.core.metrics import (
    FORMULAS,
    P95_FROM,
    P99_FROM,
    Formula,
    Quantiles,
    quantiles_at,
    rank,
)
from service.core.ports import RecordFilter
from service.core.summary import (
    SUMS,
    RecordSummary,
    Summary,
    SummaryGroup,
    check_groups,
    summarize,
)
from service.storage.columns.block_columns import BlockColumns
from service.storage.columns.packed_column import Flags, Integers

_ANSWERED = "ok"
_CACHED_COLUMNS = 3
_PART_ROWS = 65_536
_State = tuple(StateBytes.__struct_fields__)


class Grouping(Struct, frozen=True):
    """Rows that match, ordered by window and model, and where each group of them begins."""

    rows: NDArray[np.int32]
    """Positions in the columns."""
    bounds: Integers
    """Group i is `rows[bounds[i]:bounds[i + 1]]`."""
    keys: list[tuple[int | None, str | None]]
    """Window and model of each group."""


def summarize_columns(
    columns: BlockColumns,
    where: RecordFilter,
    *,
    window_ns: int | None,
    models: Mapping[int, str | None],
    builds: set[int] | None,
) -> RecordSummary:
    """Summarize the rows that match.

    *models* maps ids of builds to model names; *builds* are the ids that the filter allows, None
    for all rows, with a build or without. Raises InvalidRequest if there would be too many groups.
    """
    rows = np.flatnonzero(_matching(columns, where, builds)).astype(np.int32)
    if not len(rows):
        return summarize((), window_ns=window_ns)
    grouping = _grouped(columns, rows, window_ns, models)
    table = _Table(columns, grouping)
    groups, total = table.summaries()
    return RecordSummary(
        window_ns=window_ns,
        total=total,
        groups=tuple(
            SummaryGroup(model=model, window_start_ns=window, summary=summary)
            for (window, model), summary in zip(grouping.keys, groups, strict=True)
        ),
    )


def _matching(columns: BlockColumns, where: RecordFilter, builds: set[int] | None) -> Flags:
    matching = np.ones(columns.row_count, dtype=bool)
    texts = {
        "status": where.status,
        "endpoint": where.endpoint,
        "requested_model": where.requested_model,
    }
    for name, text in texts.items():
        if text is not None:
            values, labels = columns.texts(name)
            matching &= values == (labels.index(text) if text in labels else -1)
    if builds is not None:
        values, known = columns.integers("model_build_id")
        matching &= known & np.isin(values, np.array(sorted(builds), dtype=np.int64))
    if where.since_ns is not None or where.until_ns is not None:
        at_ns, _ = columns.integers("accepted_at_ns")
        if where.since_ns is not None:
            matching &= at_ns >= where.since_ns
        if where.until_ns is not None:
            matching &= at_ns < where.until_ns
    return matching


def _grouped(
    columns: BlockColumns,
    rows: NDArray[np.int32],
    window_ns: int | None,
    models: Mapping[int, str | None],
) -> Grouping:
    names = sorted({None, *models.values()}, key=lambda name: name or "")
    # Build ids begin at 1: 0 stands for a request that reached no model.
    number_of = np.zeros(max(models, default=0) + 1, dtype=np.int64)
    for build, name in models.items():
        number_of[build] = names.index(name)
    keys = number_of[columns.integers("model_build_id")[0][rows]]
    first = 0
    if window_ns is not None:
        windows = columns.integers("accepted_at_ns")[0][rows] // window_ns
        first = int(windows.min())
        keys += (windows - first) * len(names)
    found, group_of = np.unique(keys, return_inverse=True)
    check_groups(len(found))
    order = np.argsort(group_of.astype(np.uint16), kind="stable")
    counts = np.bincount(group_of)
    return Grouping(
        rows=rows[order],
        bounds=np.concatenate(([0], np.cumsum(counts))),
        keys=[
            (None if window_ns is None else (first + window) * window_ns, names[model])
            for window, model in (divmod(int(key), len(names)) for key in found)
        ],
    )


class _Table:
    """The columns of grouped rows, and their summaries."""

    def __init__(self, columns: BlockColumns, grouping: Grouping) -> None:
        self._columns = columns
        self._rows = grouping.rows
        self._bounds = grouping.bounds
        self._recent: dict[str, tuple[Integers, Flags]] = {}
        status, self._statuses = columns.texts("status")
        self._status = status[self._rows].astype(np.uint8)
        answered = self._statuses.index(_ANSWERED) if _ANSWERED in self._statuses else -1
        self._answered = self._status == answered
        self._cold = self._column("cold")[0] == 1

    def summaries(self) -> tuple[list[Summary], Summary]:
        """Of each group, and of all together."""
        fields = self._counts()
        metrics = {name: self._metric(name, formula) for name, formula in FORMULAS.items()}
        state = {name: self._quantiles(*self._measured_state(name)) for name in _State}
        groups = len(self._bounds) - 1
        summaries = [
            Summary(
                **{name: values[group] for name, values in fields.items()},
                metrics={name: found[group] for name, found in metrics.items()},
                state={name: found[group] for name, found in state.items()},
            )
            for group in range(groups + 1)
        ]
        return summaries[:-1], summaries[-1]

    def _column(self, name: str) -> tuple[Integers, Flags]:
        """A field of the grouped rows; those used last are kept."""
        if name == "accepted_ns":  # the other clock readings are relative to it
            count = len(self._rows)
            return np.broadcast_to(np.int64(0), count), np.broadcast_to(np.bool_(True), count)
        found = self._recent.pop(name, None)
        if found is None:
            values, known = self._columns.integers(name)
            found = values[self._rows], known[self._rows]
        self._recent[name] = found
        while len(self._recent) > _CACHED_COLUMNS:
            del self._recent[next(iter(self._recent))]
        return found

    def _counts(self) -> dict[str, list[Any]]:
        """Counts and sums: one value per group, then the total."""
        verified, told = self._column("verified")
        by_status = [self._sums(self._status == number) for number in range(len(self._statuses))]
        fields: dict[str, list[Any]] = {
            "count": [*np.diff(self._bounds).tolist(), len(self._rows)],
            "by_status": [
                {name: count for name, count in zip(self._statuses, counts, strict=True) if count}
                for counts in zip(*by_status, strict=True)
            ],
            "cold": self._sums(self._cold),
            "verified": self._sums(told & (verified == 1)),
            "unverified": self._sums(told & (verified == 0)),
        }
        for name in SUMS:
            values, known = self._column(name)
            knowing = self._sums(known)
            fields[name] = [
                total if count else None
                for total, count in zip(self._sums(values), knowing, strict=True)
            ]
        fields["energy_uj"] = self._energy()
        return fields

    def _energy(self) -> list[dict[str, int]]:
        """Microjoules by source: one table per group, then the total."""
        energy_uj, known = self._column("energy_uj")
        numbers, sources = self._columns.texts("energy_source")
        numbers = numbers[self._rows]
        tables: list[dict[str, int]] = [{} for _ in self._bounds]
        for source in sorted(filter(None, sources)):
            counted = known & (numbers == sources.index(source))
            sums = zip(self._sums(energy_uj * counted), self._sums(counted), strict=True)
            for table, (total_uj, count) in zip(tables, sums, strict=True):
                if count:
                    table[source] = total_uj
        return tables

    def _sums(self, values: Integers | Flags) -> list[int]:
        of_groups = np.add.reduceat(values, self._bounds[:-1], dtype=np.int64)
        return [*of_groups.tolist(), int(of_groups.sum())]

    def _metric(self, name: str, formula: Formula) -> list[Quantiles]:
        """Of the requests answered whole; cold ones count only in `load_ms`."""
        inputs = [self._column(each) for each in formula.inputs]
        wanted = self._answered if name == "load_ms" else self._answered & ~self._cold
        for _, known in inputs:
            wanted = wanted & known
        if formula.defined is not None:
            wanted = wanted & formula.defined(*(values for values, _ in inputs))
        # In parts: whole arrays of intermediate results would be most of the memory.
        values = np.empty(np.count_nonzero(wanted))
        end = 0
        for begin in range(0, len(wanted), _PART_ROWS):
            part = slice(begin, begin + _PART_ROWS)
            found = formula.compute(*(column[part][wanted[part]] for column, _ in inputs))
            values[end : end + len(found)] = found
            end += len(found)
        return self._quantiles(values, wanted)

    def _measured_state(self, name: str) -> tuple[NDArray[np.float64], Flags]:
        values, known = self._column(name)
        wanted = self._answered & known
        return values[wanted].astype(np.float64), wanted

    def _quantiles(self, values: NDArray[np.float64], wanted: Flags) -> list[Quantiles]:
        """Of each group's values, then of all; *wanted* tells whose they are. Reorders values."""
        bounds = [0, *itertools.accumulate(self._sums(wanted)[:-1])]
        parts = [values[begin:end] for begin, end in itertools.pairwise(bounds)]
        return [_quantiles(part) for part in [*parts, values]]


def _quantiles(values: NDArray[np.float64]) -> Quantiles:
    count = len(values)
    ranks = {
        rank(count, share)
        for share, needed in ((0.5, 1), (0.95, P95_FROM), (0.99, P99_FROM), (1.0, 1))
        if count >= needed
    }
    if ranks:
        values.partition(sorted(ranks))
    return quantiles_at(count, lambda index: float(values[index]))
