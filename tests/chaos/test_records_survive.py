"""Records outlive the process that wrote them, and a disk that is full for a while."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from service.core.ports import RecordFilter
from service.storage import open_store

CHILD = Path(__file__).parent / "recording_child.py"
FULL_DISK_CHILD = Path(__file__).parent / "full_disk_child.py"
PACKING_CHILD = Path(__file__).parent / "packing_child.py"
KILLS = 20

pytestmark = pytest.mark.chaos


def record_until_killed(url: str, first: int, acknowledged: int) -> list[tuple[str, str]]:
    """What a recording process had promised when it was killed, mid-work."""
    child = subprocess.Popen(
        [sys.executable, CHILD, url, str(first)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(acknowledged)]
    child.kill()
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    # The last line may be cut off, and then promises nothing.
    return [(line.split()[0], line.split()[1]) for line in lines if line.endswith("\n")]


@pytest.mark.timeout(300)
def test_every_promised_record_survives_twenty_kills(tmp_path: Path) -> None:
    """Each acknowledged id has exactly one row, final where that was promised, never running."""
    url = f"sqlite:///{tmp_path}/records.db"
    chance = random.Random(20)
    promised: dict[str, str] = {}
    for round_ in range(KILLS):
        said = record_until_killed(url, round_ * 100_000, chance.randint(5, 120))
        promised |= {subject: what for what, subject in said if what != "interrupted"}

    store = open_store(url)
    store.interrupt_orphans()
    rows = [record for record in store.iterate(RecordFilter()) if record.request_id in promised]
    store.close()

    assert len(promised) > 20 * KILLS / 2
    assert sorted(promised) == sorted(row.request_id for row in rows)
    assert {row.phase for row in rows} == {"final"}
    ended = {request_id for request_id, what in promised.items() if what == "final"}
    assert ended <= {row.request_id for row in rows if row.status == "ok"}
    assert {row.status for row in rows} == {"ok", "interrupted"}


def test_a_full_disk_loses_no_record(tmp_path: Path) -> None:
    """With a file size limit records wait, new requests are refused; without it all are written."""
    url = f"sqlite:///{tmp_path}/records.db"

    done = subprocess.run(
        [sys.executable, FULL_DISK_CHILD, url], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["healthy", "unhealthy", "refused", "left=0"]
    store = open_store(url)
    kept = sum(1 for _ in store.iterate(RecordFilter()))
    store.close()
    assert kept == 2000


def test_a_full_disk_while_packing_loses_nothing(tmp_path: Path) -> None:
    """Columns that find no room are packed later, and the summary counts every row once."""
    url = f"sqlite:///{tmp_path}/records.db"

    done = subprocess.run(
        [sys.executable, PACKING_CHILD, url], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["full", "packed"]
    store = open_store(url)
    summary = store.summary(RecordFilter(), window_ns=None, cancelled=lambda: False)
    rows = sum(1 for _ in store.iterate(RecordFilter()))
    store.close()
    assert summary.total.count == rows == 9216
