"""The counter of the device that holds models, an estimate by the operator's word, or none."""

import shutil

import pytest

from service.telemetry.energy.choice import choose_counter
from service.telemetry.energy.counter import CounterUnreadable
from service.telemetry.energy.estimate import EstimatedEnergy
from service.telemetry.energy.nvml import NvmlCounter
from service.telemetry.energy.rapl import RaplCounter
from support.clock import Clock


def nothing():
    raise CounterUnreadable("there is none")


@pytest.fixture
def rapl(tmp_path):
    folder = tmp_path / "intel-rapl:0"
    folder.mkdir()
    (folder / "name").write_text("package-0")
    (folder / "max_energy_range_uj").write_text("1000")
    (folder / "energy_uj").write_text("1")
    return lambda: RaplCounter.open(tmp_path)


def test_a_counter_is_preferred_to_an_estimate(rapl):
    """`power.watts` is for machines without one."""
    chosen = choose_counter(device="cpu", watts=100, rapl=rapl, nvml=nothing)
    assert chosen.counter.source == "rapl"
    assert chosen.reason is None


def test_the_processors_counter_does_not_stand_in_for_a_gpus(rapl):
    """It would miss most of what a model on a GPU takes."""
    chosen = choose_counter(device="NVIDIA L4", rapl=rapl, nvml=nothing)
    assert chosen.counter is None
    assert chosen.reason == "there is none"


def test_stated_power_is_an_estimate():
    """It is named so, and the reason is kept."""
    chosen = choose_counter(device="cpu", watts=100, rapl=nothing)
    assert chosen.counter.source == "estimate"
    assert chosen.reason == "there is none"


def test_without_either_nothing_is_guessed():
    """Unknown stays unknown."""
    assert choose_counter(device="cpu", rapl=nothing).counter is None


def test_stated_power_times_time():
    """100 W for 20 ms are 2 J."""
    clock = Clock(5)
    counter = EstimatedEnergy(100, clock)
    clock.now += 20_000_000
    assert counter.read_uj() == 2_000_000


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_a_gpu_that_is_not_there_is_unreadable():
    """The reason names the library or the driver that is missing."""
    with pytest.raises(CounterUnreadable, match=r"NVML|NVIDIA"):
        NvmlCounter.open()


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no GPU")
def test_the_energy_of_a_gpu_only_grows():
    """Its counter is the driver's."""
    counter = NvmlCounter.open()
    first_uj = counter.read_uj()
    assert 0 <= first_uj <= counter.read_uj()
