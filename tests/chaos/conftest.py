"""A whole service with a tiny model in a real torch host, beside echo models."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.settings import TorchSettings
from support import tiny_text
from support.live_service import LiveService, serve

__all__ = ["serve", "serve_tiny"]

TINY = """
id = "tiny"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 250
dtype = "float32"
sources = [{{ kind = "folder", path = "{folder}" }}]
"""


@pytest.fixture(scope="session")
def tiny_catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the catalogue file of a tiny llama that can be chatted with."""
    catalogue = tmp_path_factory.mktemp("catalogue")
    folder = tiny_text.write_model("llama", tmp_path_factory.mktemp("tiny"))
    (catalogue / "tiny.toml").write_text(TINY.format(folder=folder))
    return str(catalogue)


@pytest.fixture
def serve_tiny(
    serve: Callable[..., LiveService], tiny_catalogue: str, tmp_path: Path
) -> Callable[..., LiveService]:
    """Start a service that has answered with the model `tiny` already."""

    def start(**settings: object) -> LiveService:
        live = serve(
            more_models=(tiny_catalogue,),
            preload=("echo", "tiny"),
            torch=TorchSettings(threads=1, kernels="eager"),
            probe=False,
            **settings,
        )
        live.until(lambda: live.chat(model="tiny", max_tokens=2).status_code == 200, 90)
        return live

    return start
