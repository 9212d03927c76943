"""What is free is what the nearest limit leaves."""

import psutil
import pytest

from service.telemetry.available import free_memory_bytes, gpu


def container(root, path, *, limit, used, inactive):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


@pytest.fixture
def membership(tmp_path):
    """A process of the control group /pod/one."""
    file = tmp_path / "membership"
    file.write_text("0::/pod/one\n")
    return file


def test_a_containers_limit_counts(tmp_path, membership):
    """Its page cache can be taken back, so that it is free."""
    container(tmp_path, "pod/one", limit=1_000_000, used=600_000, inactive=100_000)
    assert free_memory_bytes(tmp_path, membership) == 500_000


def test_the_nearest_of_all_limits_above_counts(tmp_path, membership):
    """A pod may leave less than its container's own limit."""
    container(tmp_path, "pod/one", limit=1_000_000, used=0, inactive=0)
    container(tmp_path, "pod", limit=900_000, used=700_000, inactive=0)
    assert free_memory_bytes(tmp_path, membership) == 200_000


def test_more_used_than_allowed_is_nothing_free(tmp_path, membership):
    """A limit may be lowered below what is used."""
    container(tmp_path, "pod/one", limit=1_000, used=2_000, inactive=0)
    assert free_memory_bytes(tmp_path, membership) == 0


def test_without_a_limit_the_machine_counts(tmp_path, membership):
    """`max` is no limit."""
    container(tmp_path, "pod/one", limit="max", used=600_000, inactive=0)
    free = free_memory_bytes(tmp_path, membership)
    assert 0 < free <= psutil.virtual_memory().total


def test_version_1_is_understood(tmp_path, membership):
    """Its files have other names, and its word for no limit is a large number."""
    membership.write_text("9:cpu:/\n8:memory,hugetlb:/docker/x\n")
    for path, limit in (("memory/docker/x", 5_000), ("memory", 2**63 - 4096)):
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        (folder / "memory.usage_in_bytes").write_text("4000")
        (folder / "memory.stat").write_text("total_inactive_file 500\n")
    assert free_memory_bytes(tmp_path, membership) == 1_500


def test_a_hidden_gpu_is_not_asked(monkeypatch):
    """Torch would not use it either."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu() is None
