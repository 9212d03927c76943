"""Work in records: from the model's config, as far as counts are known."""

import json

import msgspec
import pytest

from model_registry.spec import ModelSpec, ResolvedModel, Variant
from model_registry.work import work_formula
from service.core.events import ModelMemory
from service.core.record import RequestRecord
from service.core.work import Work
from service.serving.requests.work import WorkFormulas, work_of

CONFIG = {
    "model_type": "llama",
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FORMULA = work_formula(CONFIG)


class Loaded:
    """What `WorkFormulas` asks of an engine."""

    def __init__(self, model, weights_bytes=None):
        self.model = model
        self.weights_bytes = weights_bytes

    def memory(self):
        return ModelMemory(weights_bytes=self.weights_bytes)


def model(path="", *, variant=None, **changes):
    known = {
        "id": "m",
        "family": "transformer",
        "licence": "MIT",
        "context_tokens": 256,
        "sources": (),
        "variants": {"int8": Variant(quantization="int8")},
    }
    return ResolvedModel(
        spec=ModelSpec(**known | changes), variant=variant, path=str(path), weights_sha256=None
    )


def record(**changes):
    known = {
        "request_id": "r",
        "phase": "final",
        "status": "ok",
        "endpoint": "/v1/chat/completions",
        "stream": False,
        "requested_model": "m",
        "accepted_at_ns": 1,
        "accepted_ns": 1,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 3,
    }
    return RequestRecord(**known | changes)


def test_a_record_holds_the_work_of_its_counts():
    """Prompt, reused and answered tokens decide."""
    expected = FORMULA.of(prompt_tokens=10, cached_tokens=4, new_tokens=3)
    found = work_of(FORMULA, record(), scored=False)
    assert msgspec.structs.asdict(found) == msgspec.structs.asdict(expected)


def test_an_engine_that_would_tell_of_reuse_computed_the_whole_prompt():
    """It restores states itself, so it would know."""
    found = work_of(FORMULA, record(cached_tokens=None), scored=False, tells_reuse=True)
    assert found.prefill_flops == FORMULA.of(prompt_tokens=10, new_tokens=3).prefill_flops


def test_of_a_server_that_tells_no_reuse_only_decode_steps_are_known():
    """How much of the prompt it computed is unknown, and so is what it read for it."""
    found = work_of(FORMULA, record(cached_tokens=None), scored=False)
    expected = FORMULA.of(prompt_tokens=10, new_tokens=3)
    assert found == Work(decode_flops=expected.decode_flops, decode_bytes=expected.decode_bytes)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_tokens": None},
        {"completion_tokens": None},
        {"status": "cancelled", "completion_tokens": 0},
        {"cached_tokens": 10},
    ],
)
def test_what_cannot_be_computed_is_unknown(changes):
    """Counts that are missing or impossible, and requests that may have ended in their prefill."""
    assert work_of(FORMULA, record(**changes), scored=False) == Work()


def test_a_count_beyond_64_bits_is_unknown():
    """Another server may report any number of tokens; the store would refuse the record."""
    found = work_of(FORMULA, record(prompt_tokens=2**52), scored=False)
    assert found.prefill_flops is None
    assert found.weight_bytes_read is not None


async def test_a_formula_is_read_once_from_the_models_files(tmp_path):
    """The config of the files counts; it is not read again for the next request."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    formulas = WorkFormulas()
    assert await formulas.of(Loaded(model(tmp_path))) == FORMULA
    (tmp_path / "config.json").unlink()
    assert await formulas.of(Loaded(model(tmp_path))) == FORMULA


async def test_a_model_without_files_is_known_by_its_catalogue_entry():
    """A remote model works as its published numbers say; without them nothing is known."""
    remote = model(id="remote", architecture=CONFIG)
    assert await WorkFormulas().of(Loaded(remote)) == FORMULA
    assert await WorkFormulas().of(Loaded(model())) is None


async def test_quantized_weights_count_as_they_are_held():
    """The measured bytes of the loaded weights replace the mean of the format."""
    remote = model(architecture=CONFIG, variant="int8")
    formula = await WorkFormulas().of(Loaded(remote, weights_bytes=3 * FORMULA.parameters))
    assert formula.weight_bytes == 3.0
