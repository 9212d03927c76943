"""RAPL's counters, read from folders as the kernel's powercap has them."""

import os

import pytest

from service.telemetry.energy.counter import CounterUnreadable
from service.telemetry.energy.rapl import RaplCounter


def zone(root, number, name, energy_uj, range_uj=1000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


def test_packages_and_memories_are_added_up(tmp_path):
    """Cores are part of their package, and `psys` is around all: neither counts again."""
    package, other = zone(tmp_path, "0", "package-0", 10), zone(tmp_path, "1", "package-1", 20)
    cores, memory = zone(tmp_path, "0:0", "core", 5), zone(tmp_path, "0:1", "dram", 7)
    around = zone(tmp_path, "2", "psys", 50)
    counter = RaplCounter.open(tmp_path)
    assert counter.read_uj() == 0
    for file, energy_uj in ((package, 110), (other, 220), (cores, 65), (memory, 37), (around, 950)):
        file.write_text(str(energy_uj))
    assert counter.read_uj() == 100 + 200 + 30


def test_a_counter_that_wraps_around_goes_on(tmp_path):
    """It begins at 0 again at the range that the kernel tells."""
    energy = zone(tmp_path, "0", "package-0", 900, range_uj=1000)
    counter = RaplCounter.open(tmp_path)
    energy.write_text("50")
    assert counter.read_uj() == 150
    energy.write_text("60")
    assert counter.read_uj() == 160


def test_a_machine_without_counters_says_so(tmp_path):
    """Virtual machines have no such folder; some kernels have zones of other kinds alone."""
    with pytest.raises(CounterUnreadable, match="no package zone"):
        RaplCounter.open(tmp_path / "missing")
    zone(tmp_path, "0", "psys", 1)
    with pytest.raises(CounterUnreadable, match="no package zone"):
        RaplCounter.open(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_counter_for_root_alone_says_how_to_open_it(tmp_path):
    """The kernel's default for all other users."""
    zone(tmp_path, "0", "package-0", 1).chmod(0)
    with pytest.raises(CounterUnreadable, match="udev"):
        RaplCounter.open(tmp_path)


def test_a_counter_that_disappears_or_holds_no_number_is_unreadable(tmp_path):
    """A driver that is unloaded takes its files with it."""
    energy = zone(tmp_path, "0", "package-0", 1)
    counter = RaplCounter.open(tmp_path)
    energy.write_text("no number")
    with pytest.raises(CounterUnreadable):
        counter.read_uj()
    energy.unlink()
    with pytest.raises(CounterUnreadable):
        counter.read_uj()
