"""Tiny models on disk that the torch host can load and chat with."""

import pytest

from model_registry.spec import ModelSpec, ResolvedModel
from support import tiny_text


@pytest.fixture(scope="session")
def chattable(tmp_path_factory):
    """A tiny llama with a tokenizer, as the registry would hand it over."""
    folder = tiny_text.write_model("llama", tmp_path_factory.mktemp("chattable"))

    def resolve(name="tiny", path=folder):
        spec = ModelSpec(
            id=name,
            family="transformer",
            licence="Apache-2.0",
            context_tokens=250,
            sources=(),
            dtype="float32",
        )
        return ResolvedModel(spec=spec, variant=None, path=str(path), weights_sha256=None)

    return resolve
