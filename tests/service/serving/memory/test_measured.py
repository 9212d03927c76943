"""What models held is kept between starts."""

from concurrent.futures import ThreadPoolExecutor

from model_registry.spec import ModelSpec, ResolvedModel
from service.core.ports import MemoryEstimate
from service.serving.memory.measured import MeasuredBytes

NEED = MemoryEstimate(held_bytes=1, setup="a setup")


def model(number):
    spec = ModelSpec(
        id=f"m{number}", family="ssm", licence="MIT", context_tokens=10, sources=(), engine="echo"
    )
    return ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None)


def test_models_that_load_at_once_keep_all_their_measurements(tmp_path):
    """And leave one file, whole.

    Two writers shared the name of the new file: one replaced it while the other wrote.
    """
    path = tmp_path / "measured.json"
    measured = MeasuredBytes(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: measured.put(model(number), NEED, number), range(100)))
    again = MeasuredBytes(path)
    assert [again.get(model(number), NEED) for number in range(100)] == list(range(100))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_costs_a_prediction_only(tmp_path, caplog):
    """The measurement holds until the next start."""
    measured = MeasuredBytes(tmp_path / "gone" / "measured.json")
    measured.put(model(1), NEED, 5)
    assert measured.get(model(1), NEED) == 5
    assert "cannot be written" in caplog.text
