"""How many threads models compute with by default."""

import pytest

from service.engines import threads


@pytest.mark.parametrize(
    ("quota", "wanted", "found"),
    [
        ("max 100000", "", 6),
        ("250000 100000", "", 2),
        ("50000 100000", "", 1),
        (None, "", 6),
        ("max 100000", "3,2", 3),
        ("max 100000", "many", 6),
    ],
)
def test_all_cores_compute_unless_told_otherwise(monkeypatch, tmp_path, quota, wanted, found):
    """Affinity, a container's quota and OMP_NUM_THREADS say how many threads there are."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")

    assert threads.default_threads() == found
