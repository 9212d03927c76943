"""Runs a command, and ends all its processes when the command or the caller is gone.

    python guardian.py COMMAND …

Standard input is a pipe from the caller: its end means that the caller is gone. The
command's process id, which is its process group too, is the first line of standard output, and its
exit status the second (128 + n if signal n ended it). What the command writes goes to standard
error. Standard library only: it is run by path.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 3.0
"""How long the command's processes may take to clean up before they are killed."""


def main() -> None:
    """Run the command named on the command line until it or the caller is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)  # a handler, not SIG_IGN, which the command would inherit
    command = subprocess.Popen(  # noqa: S603  the service's own command
        sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
    )
    _tell(command.pid)
    threading.Thread(target=_end_with_asker, args=(command,), daemon=True).start()
    status = command.wait()
    _tell(status if status >= 0 else 128 - status)
    end_group(command.pid)


def _tell(number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(number, flush=True)  # noqa: T201  the protocol


def _ignore(*_: object) -> None:
    """Ignore the signal: the end of the caller arrives by the pipe."""


def _end_with_asker(command: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    end_group(command.pid)


def end_group(group: int) -> None:
    """Ask all processes of a group to end, then kill those that have not."""
    deadline = time.monotonic() + GRACE_S
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main()
