"""Metrics of experiments: names, units, and which way is better."""

from typing import Final, Literal

from msgspec import Struct

from service.core.experiments.plan import Measure


class Metric(Struct, frozen=True, kw_only=True):
    """A number that arms are compared by."""

    name: str
    title: str
    unit: str
    measure: Measure
    better: Literal["lower", "higher"] = "lower"
    less: str = "better"
    """What the smaller value is called."""
    more: str = "worse"
    timed: bool = False
    """Depends on what else the machine does, and on the kernels."""
    missing: str = "no value is known"
    """Why a comparison without any value was not made."""

    @property
    def heading(self) -> str:
        """The title as the beginning of a sentence."""
        return self.title[0].upper() + self.title[1:]

    @property
    def is_share(self) -> bool:
        """Whether values are right (1) or wrong (0)."""
        return self.measure == "probes"


def _time(name: str, title: str, measure: Measure) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="ms",
        measure=measure,
        less="faster",
        more="slower",
        timed=True,
    )


#: By name, in order of a report. `later_turns_ttft_ms` is `ttft_ms` of turns from the second on.
METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            name="memory_bytes",
            title="memory",
            unit="bytes",
            measure="memory",
            less="less",
            more="more",
            missing="no engine told the bytes of its state",
        ),
        _time("tpot_ms", "TPOT", "speed"),
        _time("ttft_ms", "TTFT", "speed"),
        _time("prefill_ms", "prefill time", "speed"),
        _time("later_turns_ttft_ms", "TTFT from the second turn on", "turns"),
        Metric(
            name="bits_per_byte",
            title="bits per byte",
            unit="bit/B",
            measure="score",
            missing="no text was scored",
        ),
        Metric(
            name="energy_j",
            title="energy",
            unit="J",
            measure="speed",
            less="less",
            more="more",
            timed=True,
            missing="no energy counter",
        ),
    )
}


def probe_metric(probe: str) -> Metric:
    """Return the accuracy of a probe as a metric."""
    return Metric(
        name=probe,
        title=f"accuracy in {probe.replace('_', ' ')}",
        unit="share right",
        measure="probes",
        better="higher",
        less="worse",
        more="better",
    )


def metric_named(name: str) -> Metric:
    """Return a metric by its name; a name that is none of METRICS is a probe's."""
    return METRICS.get(name) or probe_metric(name)
