"""The README's tour works, command by command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
(TOUR,) = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("command", TOUR.strip().splitlines())
def test_a_command_of_the_tour_works(trio, command):
    """It ends with status 0 and prints something that is no error."""
    done = subprocess.run(
        command.replace("http://127.0.0.1:8000", trio.base_url),
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TRIPTYCH_URL": trio.base_url,
        },
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error":{' not in done.stdout


def test_the_tour_has_ten_lines():
    """Ten commands show what there is."""
    assert len(TOUR.strip().splitlines()) == 10


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_what_the_readme_points_to_is_there(link):
    """Every relative link leads to a file or folder."""
    assert (ROOT / link).exists()
