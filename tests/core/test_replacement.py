"""Files are replaced as a whole.

At any error, and when a person stops the program, the old file stays and nothing else.
"""

import os
import signal
import subprocess
import sys

import pytest

from mle_project.adopt.project_files import write_atomically
from mle_project.core.project import ProjectError, atomic_path, write_text_atomically

STOPPED = """
import signal, sys, time
from mle_project.core.project import atomic_path

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test may run where Ctrl-C is ignored
with atomic_path(sys.argv[1]) as part:
    part.write_text("half of the ne")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def scores(tmp_path):
    """A file with content, alone in its folder."""
    path = tmp_path / "scores.txt"
    path.write_text("old")
    return path


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_midway_leaves_the_old_file_alone(error, scores):
    with pytest.raises(error), atomic_path(scores) as part:
        part.write_text("half of the ne")
        raise error
    assert scores.read_text() == "old" and os.listdir(scores.parent) == ["scores.txt"]


def test_ctrl_c_midway_leaves_the_old_file_alone(scores):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, scores], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"half\n" and len(os.listdir(scores.parent)) == 2
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate()[1]
    assert scores.read_text() == "old" and os.listdir(scores.parent) == ["scores.txt"]


def test_the_new_file_lands_whole_and_keeps_its_mode(scores):
    scores.chmod(0o640)
    write_text_atomically(scores, "new")
    assert scores.read_text() == "new" and scores.stat().st_mode & 0o777 == 0o640
    assert os.listdir(scores.parent) == ["scores.txt"]


def test_text_that_cannot_be_written_leaves_the_old_file_alone(scores):
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(scores, "a lone surrogate: \ud800")
    assert scores.read_text() == "old" and os.listdir(scores.parent) == ["scores.txt"]


def test_a_file_that_fits_comes_back_when_a_later_one_cannot_land(scores, monkeypatch):
    """The second rename fails: the first file, placed already, goes back, and a new one goes."""
    replace = os.replace
    done = []

    def full_disk(source, target):
        if str(source).endswith(".part"):
            done.append(target)
        if str(source).endswith(".part") and len(done) == 2:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ProjectError, match="No space left on device. Nothing was changed"):
        write_atomically(
            scores.parent, {"scores.txt": "new", "new/more.txt": "more", "last.txt": "last"}
        )
    monkeypatch.undo()
    assert (
        len(done) == 2
        and scores.read_text() == "old"
        and os.listdir(scores.parent) == ["scores.txt"]
    )
