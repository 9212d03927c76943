"""The README's tour works, command by command."""

import re

import pytest

from support.documents import ROOT, blocks, run

README = (ROOT / "README.md").read_text()
((_, TOUR),) = [block for block in blocks("README.md") if block[0] == "sh"]


@pytest.mark.parametrize("command", TOUR.strip().splitlines())
def test_a_command_of_the_tour_works(trio, command):
    """It ends with status 0 and prints something that is no error."""
    done = run(command, trio.base_url)

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
