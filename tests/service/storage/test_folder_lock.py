"""Two services must not share a data folder."""

import os

import pytest

from service.core.errors import ConfigError
from service.storage.folder_lock import FolderLock


def test_a_second_holder_is_refused_with_the_first_ones_process(tmp_path):
    """The error names who holds the folder and how to go on."""
    with (
        FolderLock(tmp_path),
        pytest.raises(ConfigError, match=f"process {os.getpid()}.*--data-dir"),
    ):
        FolderLock(tmp_path)


def test_a_folder_is_free_again_when_its_holder_has_gone(tmp_path):
    """The lock ends with its holder."""
    with FolderLock(tmp_path):
        pass

    with FolderLock(tmp_path) as lock:
        assert lock


def test_a_lock_that_cannot_be_opened_is_named_with_the_way_out(tmp_path):
    """One line with file and fix, where a traceback said nothing of either."""
    (tmp_path / "triptych.lock").mkdir()

    with pytest.raises(ConfigError, match=r"triptych\.lock cannot be opened .*--data-dir"):
        FolderLock(tmp_path)


def test_a_lock_of_garbage_still_tells_that_it_is_held(tmp_path):
    """What a lock file holds is shown, never trusted to be text."""
    with FolderLock(tmp_path):
        (tmp_path / "triptych.lock").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="in use by another service"):
            FolderLock(tmp_path)
