"""Memory and family of a process, as the kernel tells them."""

import os
import subprocess
import sys

from service.core.process_memory import family, process_memory


def test_this_process_has_memory():
    """RSS, PSS and peak of a living process are known and ordered."""
    memory = process_memory(os.getpid())

    assert memory.pid == os.getpid()
    assert memory.pss_bytes
    assert memory.pss_bytes <= memory.rss_bytes <= memory.peak_rss_bytes + 2**20


def test_allocated_memory_shows():
    """Touching 64 MiB raises RSS by about as much."""
    before = process_memory(os.getpid()).rss_bytes
    block = bytearray(os.urandom(1) * (64 * 2**20))
    after = process_memory(os.getpid()).rss_bytes

    assert len(block) * 0.9 < after - before < len(block) * 1.5


def test_a_process_that_ended_is_unknown():
    """All fields of a process that is gone are None, never 0."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    memory = process_memory(child.pid)

    assert (memory.rss_bytes, memory.pss_bytes, memory.peak_rss_bytes) == (None, None, None)
    assert family(child.pid) == ()


def test_a_family_is_a_process_with_its_descendants():
    """Grandchildren count."""
    script = (
        "import subprocess as s; p = s.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        grandchild = int(child.stdout.readline())
        found = family(child.pid)
        os.kill(grandchild, 9)

    assert found == (child.pid, grandchild)
