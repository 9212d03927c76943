"""The running service that a command asks: its address, and errors that say what to do."""

import click
import httpx

#: The option `--url`.
url_option = click.option(
    "--url",
    default="http://127.0.0.1:8000",
    show_default=True,
    envvar="TRIPTYCH_URL",
    show_envvar=True,
    help="Address of the service.",
)


def unreachable(url: str, error: httpx.HTTPError) -> click.ClickException:
    """Make the error of a service that gave no answer."""
    return click.ClickException(
        f"no answer from {url} ({error}); start it with `triptych serve` or name it with --url"
    )


def refusal(answer: httpx.Response) -> click.ClickException:
    """Make the error of an answer that is one: the service's own words where there are any."""
    try:
        return click.ClickException(str(answer.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return click.ClickException(
            f"{answer.url} answered {answer.status_code}; is it a Triptych?"
        )
