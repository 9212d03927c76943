"""The `triptych` command: each subcommand is imported only when it is asked for."""

import importlib
import signal
from typing import Any, ClassVar

import click

from service import __version__


class LazyGroup(click.Group):
    """A group whose subcommands live in modules of their own, so that `--help` stays quick."""

    modules: ClassVar[dict[str, str]] = {
        "compare": "service.cli.compare.command",
        "experiment": "service.cli.experiment.command",
        "limits": "service.cli.limits",
        "models": "service.cli.models.command",
        "quantize": "service.cli.quantize",
        "routes": "service.cli.routes.command",
        "score": "service.cli.score",
        "serve": "service.cli.serve",
        "top": "service.cli.top.command",
        "votes": "service.cli.votes",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all subcommands."""
        return sorted({*super().list_commands(ctx), *self.modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand: module `service.cli.NAME` defines a command `NAME`."""
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        command: Any = getattr(importlib.import_module(self.modules[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="triptych")
def main() -> None:
    """Serve transformer, SSM and hybrid language models side by side, and measure each request."""
    # A background job of a shell inherits SIGINT as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    main()
