"""The environment that the torch host starts in."""

import pytest

from service.engines.torch.environment import SPIN_COUNT, environment


def test_memory_of_a_step_is_kept_for_the_next(monkeypatch, tmp_path):
    """The host keeps freed memory up to a bound, unless the operator says otherwise."""
    kept = environment(1, tmp_path)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    chosen = environment(1, tmp_path)

    assert int(kept["MALLOC_TRIM_THRESHOLD_"]) >= 2**27
    assert chosen["MALLOC_TRIM_THRESHOLD_"] == "7"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPIN_COUNT), "OMP_WAIT_POLICY": None}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5", "OMP_WAIT_POLICY": None}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_spin_for_a_bounded_time(monkeypatch, tmp_path, given, found):
    """By default a spin count bounds it; the operator's own count or policy is left alone."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tuned = environment(3, tmp_path)

    assert {name: tuned.get(name) for name in found} == found
    assert tuned["OMP_NUM_THREADS"] == "3"


def test_compiled_kernels_are_kept_in_the_data_folder(monkeypatch, tmp_path):
    """A start after the first finds them, wherever the operator keeps the data."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    kept = environment(1, tmp_path)["NUMBA_CACHE_DIR"]
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")

    assert kept == str(tmp_path / "cache" / "kernels")
    assert environment(1, tmp_path)["NUMBA_CACHE_DIR"] == "/elsewhere"


@pytest.mark.parametrize("name", ["OMP_DYNAMIC", "OMP_THREAD_LIMIT"])
def test_the_team_is_as_large_as_asked_for(monkeypatch, tmp_path, name):
    """With these, OpenMP formed smaller teams, and rows of missing threads stayed uncomputed."""
    monkeypatch.setenv(name, "1")

    assert name not in environment(2, tmp_path)
