"""A root opens what is beneath it and nothing else, by openat2 and by the walk alike."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_acp.exceptions import ExecutorError, PathOutside
from jupyter_acp.kernel_exec.base import FileMissing
from jupyter_acp.kernel_exec.paths import Root

WAYS = [pytest.param(False, id="walk")]
if sys.platform == "linux":
    WAYS.append(pytest.param(True, id="openat2"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """proj with a file, a folder and links; beside it a sibling with a secret."""
    project = tmp_path / "proj"
    (project / "src").mkdir(parents=True)
    (project / "a.txt").write_text("inside")
    (project / "src" / "b.txt").write_text("deeper")
    (tmp_path / "proj2").mkdir()
    (tmp_path / "proj2" / "secret").write_text("secret")
    (project / "out").symlink_to(tmp_path / "proj2")
    (project / "out_relative").symlink_to("../proj2")
    (project / "out_file").symlink_to(tmp_path / "proj2" / "secret")
    (project / "in").symlink_to("src")
    (project / "in_absolute").symlink_to(project / "src")
    (project / "src" / "up").symlink_to("../a.txt")
    (project / "loop").symlink_to("loop")
    return project


@pytest.fixture(params=WAYS)
def root(request: pytest.FixtureRequest, project: Path) -> Iterator[Root]:
    root = Root(project, openat2=request.param)
    before = len(os.listdir("/dev/fd"))
    yield root
    assert len(os.listdir("/dev/fd")) == before, "a descriptor was left open"
    root.close()


def read(root: Root, path: str) -> bytes:
    with root.open_read(path) as file:
        return file.read()


@pytest.mark.parametrize("path", ["a.txt", "./a.txt", "src/../a.txt", "src//up", "in/up", "in_absolute/../a.txt"])
def test_paths_and_links_that_stay_inside_are_read(root: Root, path: str) -> None:
    assert read(root, path) == b"inside"


def test_absolute_paths_inside_are_read_in_both_spellings(root: Root, project: Path, tmp_path: Path) -> None:
    assert read(root, str(project / "a.txt")) == b"inside"
    (tmp_path / "alias").symlink_to(project)
    alias = Root(tmp_path / "alias")
    assert read(alias, str(tmp_path / "alias" / "a.txt")) == b"inside"
    assert read(alias, str(project / "a.txt")) == b"inside"
    alias.close()


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../proj2/secret",
        "src/../../proj2/secret",
        "in/../../proj2/secret",
        "out/secret",
        "out_relative/secret",
        "out_file",
        "{base}/proj2/secret",
        "{base}/proj/../proj2/secret",
        "/etc/passwd",
        "/",
    ],
)
def test_what_leads_out_is_neither_read_nor_written_nor_entered(root: Root, tmp_path: Path, path: str) -> None:
    path = path.format(base=tmp_path)
    for use in (root.open_read, root.stat, root.open_directory, lambda p: root.open_write(p).__enter__()):
        with pytest.raises(PathOutside):
            use(path)
    assert (tmp_path / "proj2" / "secret").read_text() == "secret"
    assert os.listdir(tmp_path / "proj2") == ["secret"]


def test_a_fifo_or_a_device_is_refused_without_waiting(root: Root, project: Path) -> None:
    os.mkfifo(project / "fifo")
    for path in ("fifo", "src"):
        with pytest.raises(ExecutorError, match="regular"):
            root.open_read(path)
    with pytest.raises(ExecutorError, match="regular"):
        root.open_write("fifo").__enter__()


def test_a_magic_link_of_proc_does_not_lead_out() -> None:
    if sys.platform != "linux":
        pytest.skip("no /proc")
    for way in (False, True):
        root = Root("/proc/self", openat2=way)
        for path in ("root/etc/passwd", "cwd/pyproject.toml"):
            with pytest.raises(ExecutorError):
                root.open_read(path)
        root.close()


@pytest.mark.parametrize("path", ["nothing", "src/nothing", "nowhere/a.txt"])
def test_what_is_not_there_is_missing(root: Root, path: str) -> None:
    with pytest.raises(FileMissing):
        root.open_read(path)


@pytest.mark.parametrize("path", ["loop", "a.txt/b", "x" * 300, "nul\0", "\ud800"])
def test_a_path_that_makes_no_sense_is_an_error_in_our_words(root: Root, path: str) -> None:
    with pytest.raises(ExecutorError):
        root.open_read(path)
    with pytest.raises(ExecutorError):
        root.open_write(path).__enter__()


def test_writing_replaces_the_file_and_keeps_its_mode(root: Root, project: Path) -> None:
    (project / "a.txt").chmod(0o750)
    before = (project / "a.txt").stat().st_ino
    with root.open_write("a.txt") as file:
        file.write(b"new")
        assert (project / "a.txt").read_text() == "inside"
    assert (project / "a.txt").read_text() == "new"
    assert stat.S_IMODE((project / "a.txt").stat().st_mode) == 0o750
    assert (project / "a.txt").stat().st_ino != before


def test_writing_creates_the_folders_above(root: Root, project: Path) -> None:
    with root.open_write("new/deep/er/file") as file:
        file.write(b"x")
    assert (project / "new/deep/er/file").read_text() == "x"


def test_writing_goes_through_a_link_that_stays_inside(root: Root, project: Path) -> None:
    with root.open_write("src/up") as file:
        file.write(b"through")
    assert (project / "a.txt").read_text() == "through"
    assert (project / "src" / "up").is_symlink()


def test_a_write_that_fails_changes_nothing(root: Root, project: Path) -> None:
    with pytest.raises(RuntimeError), root.open_write("a.txt") as file:
        file.write(b"half")
        raise RuntimeError
    assert (project / "a.txt").read_text() == "inside"
    assert not [name for name in os.listdir(project) if name.endswith("tmp")]


def test_a_hard_link_to_a_file_outside_is_not_written_through(root: Root, project: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "proj2" / "secret", project / "hard")
    with root.open_write("hard") as file:
        file.write(b"x")
    assert (tmp_path / "proj2" / "secret").read_text() == "secret"


def test_stat_says_what_is_there(root: Root) -> None:
    assert root.stat("src/up").st_size == len("inside")
    assert stat.S_ISDIR(root.stat(".").st_mode)
    with pytest.raises(FileMissing):
        root.stat("nothing")


def test_a_folder_is_opened_and_a_file_is_no_folder(root: Root, project: Path) -> None:
    for path, where in ((None, project), ("in", project / "src"), (str(project), project)):
        fd = root.open_directory(path)
        assert os.path.samestat(os.fstat(fd), where.stat())
        os.close(fd)
    with pytest.raises(ExecutorError):
        root.open_directory("a.txt")


def test_a_link_that_is_swapped_1000_times_never_leads_out(root: Root, project: Path, tmp_path: Path) -> None:
    """Both a folder and a file flip between inside and outside while they are read and written."""
    (tmp_path / "proj2" / "b.txt").write_text("secret")
    done = threading.Event()

    def swap() -> None:
        places = (("flip", project / "src", tmp_path / "proj2"), ("file", project / "a.txt", tmp_path / "proj2/b.txt"))
        for turn in range(1000):
            for name, inside, outside in places:
                (tmp_path / "next").symlink_to(outside if turn % 2 else inside)
                os.replace(tmp_path / "next", project / name)
        done.set()

    (project / "flip").symlink_to("src")
    (project / "file").symlink_to("a.txt")
    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[bytes] = set()
    refused = 0
    while not done.is_set():
        for path in ("flip/b.txt", "file"):
            try:
                seen.add(read(root, path))
                with root.open_write(path) as file:
                    file.write(b"written")
            except ExecutorError:
                refused += 1
    swapper.join()
    assert seen <= {b"inside", b"deeper", b"written"}
    assert seen and refused
    assert (tmp_path / "proj2" / "b.txt").read_text() == "secret"
    assert sorted(os.listdir(tmp_path / "proj2")) == ["b.txt", "secret"]
