"""An experiment on the reference trio, as `triptych experiment run` makes it."""

import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "trio.toml"
ARMS = ("reference-transformer", "reference-ssm", "reference-hybrid")


@pytest.fixture(scope="module")
def report(trio, tmp_path_factory):
    """The report on the shipped example, with few repetitions."""
    plan = EXAMPLE.read_text().replace("repetitions = 20", "repetitions = 2")
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "trio.toml").write_text(plan)
    command = [sys.executable, "-m", "service", "experiment", "run", str(folder / "trio.toml")]
    done = subprocess.run(
        [*command, "--url", trio.base_url, "--report", str(folder / "report.json")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode((folder / "report.json").read_bytes())


def memory(report, arm):
    """Bytes and predicted bytes by context."""
    curve = next(
        each for each in report["curves"] if (each["arm"], each["metric"]) == (arm, "memory_bytes")
    )
    measured = {point["context_tokens"]: point["median"] for point in curve["points"]}
    return measured, dict(curve["predicted"])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("arm", ARMS)
def test_memory_is_as_predicted_at_every_context(report, arm):
    """Within 1 %, from 64 to 1,536 tokens."""
    measured, predicted = memory(report, arm)

    assert sorted(measured) == [64, 128, 256, 512, 1024, 1536]
    assert measured == {tokens: pytest.approx(predicted[tokens], rel=0.01) for tokens in measured}


def test_memory_is_linear_for_attention_flat_for_ssm_between_for_hybrid(report):
    """Bytes a token: the transformer's the most, the SSM's none, the hybrid's between."""
    slopes = {}
    for arm in ARMS:
        measured, _ = memory(report, arm)
        steps = [
            (measured[more] - measured[less]) / (more - less)
            for less, more in ((64, 128), (128, 512), (512, 1024), (1024, 1536))
        ]
        assert steps == [pytest.approx(steps[0])] * 4
        slopes[arm] = steps[0]

    assert slopes["reference-ssm"] == 0
    assert 0 < slopes["reference-hybrid"] < slopes["reference-transformer"]


def test_every_trial_was_measured_on_the_same_kernels(report):
    """Each arm has two trials at each of six contexts, none failed."""
    assert [(arm["done"], arm["failed"], arm["cold"]) for arm in report["arms"]] == [(12, 0, 0)] * 3
    assert len({kernels for arm in report["arms"] for kernels in arm["kernel_paths"]}) == 1


def test_the_experiment_is_listed_by_the_service(trio, report):
    """With the environment that it ended in."""
    newest = httpx.get(f"{trio.base_url}/v1/experiments").json()["data"][0]

    assert (newest["state"], newest["done"]) == ("done", newest["planned"])
    assert {model["id"] for model in newest["environment"]["runtime"]["models"]} >= set(ARMS)
