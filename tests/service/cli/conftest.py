"""How the command-line tests call a command."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from service.cli.models.command import models


@pytest.fixture
def triptych_models(tmp_path) -> Callable[..., Result]:
    """Run `triptych models ...` with a data folder of its own."""

    def run(*words: str) -> Result:
        command, *rest = words
        return CliRunner().invoke(models, [command, "--data-dir", str(tmp_path / "data"), *rest])

    return run
