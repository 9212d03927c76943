"""The processes of the service, by name."""

import os

from service.app import processes
from service.core.ports import HasProcesses


class Owner:
    """An engine with child processes."""

    def __init__(self, **pids):
        self._pids = pids

    def processes(self):
        return self._pids


def test_processes_are_those_of_whoever_has_any():
    """An engine without processes of its own adds none; nobody asks for its class."""
    assert isinstance(Owner(), HasProcesses)

    found = processes((Owner(host=7), object(), Owner(server=8, worker=9), Owner()))

    assert found == {"service": os.getpid(), "host": 7, "server": 8, "worker": 9}
