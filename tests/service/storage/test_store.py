"""What only the SQL store promises: durability settings, one row a build, schema history."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import structs
from sqlalchemy import create_engine, func, select, text

from service.core.errors import ConfigError, StoreUnavailable
from service.core.ports import RecordFilter
from service.core.record import RequestRecord
from service.core.summary import summarize
from service.storage import open_store, sqlite
from service.storage.columns import blocks
from service.storage.store import SqlRecordStore
from service.storage.tables import SCHEMA_REVISION, metadata, model_build

MakeRecord = Callable[..., RequestRecord]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.db"


@pytest.fixture
def store(url: str) -> Iterator[SqlRecordStore]:
    opened = SqlRecordStore(url)
    yield opened
    opened.close()


def test_sqlite_runs_in_wal_mode_with_normal_sync(store: SqlRecordStore) -> None:
    """A reader never waits for the writer, and a commit does not wait for the disk."""
    with store._engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }

    expected = {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 5000, "foreign_keys": 1}
    assert expected == pragmas


def test_equal_builds_are_one_row(store: SqlRecordStore, url: str, make_record: MakeRecord) -> None:
    """Records of one build share its row, also after the store was opened anew."""
    store.write([make_record("a"), make_record("b")])
    store.write([make_record("c")])
    other = SqlRecordStore(url)
    other.write([make_record("d"), make_record("e", variant="int8")])

    with store._engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(model_build)) == 2
    other.close()


def test_a_build_of_a_failed_transaction_is_not_taken_for_stored(
    store: SqlRecordStore, make_record: MakeRecord
) -> None:
    """A build whose transaction was rolled back is inserted again with the next record."""
    with pytest.raises(OverflowError):
        store.write([make_record("bad", accepted_ns=2**70)])

    store.write([make_record("good")])

    assert store.get("good") == make_record("good")


def test_a_failed_batch_leaves_nothing(store: SqlRecordStore, make_record: MakeRecord) -> None:
    """One record that cannot be stored takes its whole transaction back."""
    with pytest.raises(OverflowError):
        store.write([make_record("good"), make_record("bad", accepted_ns=2**70)])

    assert list(store.iterate(RecordFilter())) == []


def test_a_locked_database_is_unavailable(
    url: str, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that outlasts the waiting time is StoreUnavailable, and passes with the lock."""
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_MS", 20)
    store = SqlRecordStore(url)
    with create_engine(url).connect() as blocker:
        blocker.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.write([make_record("r")])

    store.write([make_record("r")])

    assert store.get("r") is not None
    store.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """A damaged file is told as such, not as a bug."""
    (tmp_path / "records.db").write_bytes(b"not a database, " * 100)

    with pytest.raises(StoreUnavailable, match="not a database"):
        SqlRecordStore(f"sqlite:///{tmp_path}/records.db")


@pytest.mark.parametrize("damage", [b"not a database, " * 100, None])
def test_a_damaged_file_is_an_error_of_configuration(
    tmp_path: Path, make_record: MakeRecord, damage: bytes | None
) -> None:
    """A start on a damaged log ends with one line that names the file and what to do."""
    file = tmp_path / "records.db"
    if damage is None:
        with closing(SqlRecordStore(f"sqlite:///{file}")) as store:
            store.write([make_record(f"r{n}") for n in range(100)])
        damage = file.read_bytes()[:100] + b"\xff" * 30_000  # a valid header, and rubbish
    file.write_bytes(damage)

    with pytest.raises(ConfigError, match=r"records\.db: .* move it away") as caught:
        open_store(f"sqlite:///{file}")

    assert "\n" not in str(caught.value)


def test_a_mistake_of_ours_shows_no_contents(
    store: SqlRecordStore, make_record: MakeRecord
) -> None:
    """The text of a database error holds no prompt."""
    with pytest.raises(Exception, match="request_record") as caught:
        store.write([make_record("r", status=None, prompt_content="secret", error_code="secret")])

    assert "secret" not in str(caught.value)


def test_a_row_is_small(store: SqlRecordStore, tmp_path: Path, make_record: MakeRecord) -> None:
    """A record costs about 300 bytes on disk, its index included."""
    store.write([make_record(f"019ab000-0000-7abc-8def-{n:012}") for n in range(5000)])
    store.close()

    assert (tmp_path / "records.db").stat().st_size / 5000 < 350


def test_orphans_are_found_by_index(store: SqlRecordStore) -> None:
    """A start after a crash does not read the whole log."""
    with store._engine.connect() as connection:
        plan = connection.execute(
            text("EXPLAIN QUERY PLAN SELECT request_id FROM request_record WHERE phase='accepted'")
        ).all()

    assert "ix_request_record_open" in str(plan)


def test_pages_are_read_in_index_order(store: SqlRecordStore) -> None:
    """A page of a long log sorts nothing."""
    query = (
        "EXPLAIN QUERY PLAN SELECT status FROM request_record WHERE (accepted_at_ns, request_id)"
        " < (5, 'x') ORDER BY accepted_at_ns DESC, request_id DESC LIMIT 9"
    )
    with store._engine.connect() as connection:
        plan = str(connection.execute(text(query)).all())

    assert "ix_request_record_accepted_at" in plan
    assert "TEMP B-TREE" not in plan


def test_the_migrations_give_the_tables(store: SqlRecordStore) -> None:
    """The schema that alembic builds is the one that the code declares."""
    with store._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_records_of_an_older_schema_are_summed_up(
    store: SqlRecordStore, url: str, make_record: MakeRecord
) -> None:
    """Rows that were written before there were blocks are put into one."""
    store.write([make_record(f"r{n}", accepted_at_ns=n) for n in range(100)])
    config = Config()
    config.set_main_option("script_location", "service.storage:migrations")
    with store._engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")

    with closing(SqlRecordStore(url)) as migrated:
        where = RecordFilter(since_ns=10, until_ns=50)
        found = migrated.summary(where, window_ns=None, cancelled=lambda: False)
        assert found == summarize(migrated.iterate(where))
        assert found.total.count == 40


def test_packed_columns_are_read_in_place_of_rows(
    store: SqlRecordStore, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A summary reads no row of a packed block."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 50)
    store.write([make_record(f"r{n}") for n in range(50)])
    assert store.compact()
    assert not store.compact()
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE request_record SET status = 'failed'"))

    found = store.summary(RecordFilter(), window_ns=None, cancelled=lambda: False)

    assert found.total.by_status == {"ok": 50}


def test_the_newest_revision_is_the_one_expected() -> None:
    """`SCHEMA_REVISION` names the head of the migrations."""
    scripts = ScriptDirectory("service/storage/migrations")

    assert scripts.get_current_head() == SCHEMA_REVISION


def test_a_newer_schema_is_refused(store: SqlRecordStore, url: str) -> None:
    """A database of a newer release is left alone, and the message says what to do."""
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConfigError, match="'9999'"):
        SqlRecordStore(url)


def test_a_current_schema_opens_without_alembic(
    store: SqlRecordStore, url: str, tmp_path: Path
) -> None:
    """The everyday start does not pay for the migration tool, and works from any folder."""
    code = (
        f"import sys; from service.storage import open_store; open_store({url!r});"
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert done.stdout.strip() == "False"


def test_an_unknown_url_is_refused() -> None:
    """A store that does not exist is a configuration error that names the ones that do."""
    with pytest.raises(ConfigError, match="sqlite:///FILE"):
        open_store("mysql://host/name")


def test_replacing_keeps_the_build_of_its_own(
    store: SqlRecordStore, make_record: MakeRecord
) -> None:
    """An accepted record without a model gains one when its final record arrives."""
    bare = make_record("r", phase="accepted", model=None, family=None, build=None)
    store.write([bare])

    store.write([structs.replace(make_record("r"), variant="int8")])

    stored = store.get("r")
    assert stored is not None
    assert stored.variant == "int8"
