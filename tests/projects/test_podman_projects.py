"""The directory of projects that a file declares, and podman's labels."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.kernel_exec.podman import Podman
from jupyter_acp.projects.base import Role
from jupyter_acp.projects.podman import LABEL, Labels, PodmanProjects, default_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("one", "two", "root"):
        (tmp_path / name).mkdir()
    return tmp_path / "projects.json"


def entry(file: Path, name: str, **more: Any) -> dict[str, Any]:
    return {"image": "i", "folder": str(file.parent / name), "members": {"ann": "owner"}, **more}


def write(file: Path, entries: object) -> None:
    """As an editor does: another file in its place."""
    (new := file.with_suffix(".new")).write_text(entries if isinstance(entries, str) else json.dumps(entries))
    os.replace(new, file)


def directory(file: Path, **options: Any) -> PodmanProjects:
    return PodmanProjects(file.parent / "root", file=str(file), **options)


def ids(projects: PodmanProjects) -> list[str]:
    return [project.id for project in projects.projects()]


async def test_what_the_file_says_is_so_from_the_next_look_on(file: Path) -> None:
    write(file, {"one": entry(file, "one")})
    projects = directory(file)
    assert ids(projects) == []
    await projects.refresh()
    [one] = projects.projects()
    assert projects.role(one, "ann") is Role.OWNER and projects.role(one, "ben") is None
    write(file, {"one": entry(file, "one", members={"ben": "viewer"}), "two": entry(file, "two")})
    await projects.refresh()
    assert ids(projects) == ["one", "two"]
    assert projects.role(one, "ben") is Role.VIEWER and projects.role(one, "ann") is None
    write(file, {})
    await projects.refresh()
    assert ids(projects) == [] and projects.role(one, "ben") is None


@pytest.mark.parametrize("how", ["broken", "gone", "open to others"])
async def test_a_file_that_cannot_be_used_leaves_all_as_it_was_and_is_told_once(
    file: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, {"one": entry(file, "one", members={"ann": "owner", "ben": "viewer"})})
    projects = directory(file)
    await projects.refresh()
    write(file, {"one": entry(file, "one")})
    await projects.refresh()
    if how == "broken":
        write(file, '{"one"')
    elif how == "gone":
        file.unlink()
    else:
        file.chmod(0o666)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await projects.refresh()
    assert [record.getMessage().count("stay as they were") for record in caplog.records] == [1]
    [one] = projects.projects()
    assert projects.role(one, "ann") is Role.OWNER
    assert projects.role(one, "ben") is None  # who was taken out before stays out
    file.unlink(missing_ok=True)
    write(file, {"two": entry(file, "two")})
    await projects.refresh()
    assert ids(projects) == ["two"]


async def test_a_bad_entry_is_told_once_and_the_others_are_served(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(file, {"one": entry(file, "one"), "two": entry(file, "two", network="host")})
    projects = directory(file)
    for _ in range(3):
        await projects.refresh()
    assert ids(projects) == ["one"]
    [record] = caplog.records
    assert "'two' is left out" in record.getMessage()


async def test_only_what_the_file_is_known_not_to_have_is_gone(file: Path) -> None:
    projects = directory(file)
    await projects.refresh()
    assert not projects.gone("one")  # there is no file
    write(file, {"one": entry(file, "one"), "two": entry(file, "two", network="host")})
    await projects.refresh()
    assert not projects.gone("one") and not projects.gone("two") and projects.gone("three")
    write(file, {"two": entry(file, "two")})
    await projects.refresh()
    assert projects.gone("one") and not projects.gone("two")
    write(file, "{")
    await projects.refresh()
    assert not projects.gone("one")
    labelling = directory(file, find_by_label=True)
    labelling.labels = Labels(Podman("/no/such/podman"))
    write(file, {})
    await labelling.labels.ask()
    await labelling.refresh()
    assert not labelling.gone("one")  # podman was not understood
    await labelling.close()


async def test_a_folder_that_becomes_a_link_ends_its_project(file: Path) -> None:
    write(file, {"one": entry(file, "one")})
    projects = directory(file)
    await projects.refresh()
    (file.parent / "one").rmdir()
    (file.parent / "one").symlink_to("/etc")
    await projects.refresh()
    assert ids(projects) == []


async def test_what_is_put_right_beside_the_file_counts_from_the_next_look_on(file: Path) -> None:
    write(file, {"one": entry(file, "one/inner")})
    projects = directory(file)
    await projects.refresh()
    assert ids(projects) == []
    (file.parent / "one" / "inner").mkdir()
    (file.parent / "one").chmod(0o777)
    await projects.refresh()
    assert ids(projects) == []
    (file.parent / "one").chmod(0o755)
    await projects.refresh()
    assert ids(projects) == ["one"]
    file.parent.chmod(0o777)
    write(file, {"two": entry(file, "two")})
    await projects.refresh()
    assert ids(projects) == ["one"]  # anybody could have put that file there
    file.parent.chmod(0o700)
    await projects.refresh()
    assert ids(projects) == ["two"]


async def test_a_file_that_is_a_link_changes_with_what_it_leads_to(file: Path) -> None:
    (target := file.with_name("target.json")).write_text(json.dumps({"one": entry(file, "one")}))
    file.symlink_to(target)
    projects = directory(file)
    await projects.refresh()
    target.write_text("{}")
    await projects.refresh()
    assert ids(projects) == []


async def test_this_servers_own_folder_is_a_project_where_that_is_wanted(file: Path) -> None:
    write(file, {"local": {"members": {"ann": "viewer"}}})
    projects = directory(file, local=True)
    await projects.refresh()
    [local] = projects.projects()
    assert (local.id, local.container, local.root) == ("local", None, file.parent / "root")
    assert projects.role(local, "ann") is Role.VIEWER and projects.role(local, "root") is None


async def test_the_file_itself_is_in_no_project(file: Path) -> None:
    (inner := file.parent / "one" / file.name).write_text("")
    write(inner, {"one": entry(file, "one")})
    projects = directory(inner)
    await projects.refresh()
    assert ids(projects) == []


def test_the_file_is_looked_for_in_jupyters_own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False)
    assert default_file() == tmp_path / "acp_projects.json"


# labels: real containers, which are never started


needs_podman = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")


def podman(*arguments: str, stdin: bytes | None = None) -> str:
    return subprocess.run(["podman", *arguments], input=stdin, check=True, capture_output=True).stdout.decode().strip()


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, str]]:
    """Two images with nothing in them; one has a label that makes a project of each of its containers."""
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    name = f"localhost/acp-labels-{uuid.uuid4().hex[:8]}"
    found = {"plain": f"{name}:plain", "labelled": f"{name}:labelled"}
    podman("import", "-q", "-", found["plain"], stdin=empty.getvalue())
    label = json.dumps(json.dumps({"id": "trap", "members": {"eve": "owner"}}))
    podman("import", "-q", "-c", f"LABEL {LABEL}={label}", "-", found["labelled"], stdin=empty.getvalue())
    yield found
    podman("rmi", "-f", *found.values())


@pytest.fixture
def made(images: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """Makes containers, which are gone after the test."""
    names = []

    def make(image: str, *options: str) -> str:
        names.append(name := f"acp-labels-{uuid.uuid4().hex[:8]}")
        podman("create", "--pull=never", "--name", name, *options, images[image], "true")
        return name

    yield make
    for name in names:
        podman("rm", "-f", "--ignore", name)


@needs_podman
async def test_a_container_with_a_label_declares_its_project(images: dict[str, str], made: Any, file: Path) -> None:
    id = f"p{uuid.uuid4().hex[:8]}"
    label = json.dumps({"id": id, "members": {"ann": "owner"}, "network": "none"})
    name = made("plain", "--label", f"{LABEL}={label}", "-v", f"{file.parent}/two:/project")
    write(file, {"one": entry(file, "one")})
    projects = directory(file, find_by_label=True)
    assert projects.labels is not None
    await projects.labels.ask()
    await projects.refresh()
    project = next(project for project in projects.projects() if project.id == id)
    assert project.container is not None
    assert (project.root, project.container.image) == (file.parent / "two", images["plain"])
    assert project.container.network == "none" and projects.role(project, "ann") is Role.OWNER
    podman("rm", "-f", name)
    await projects.labels.ask()
    await projects.refresh()
    assert id not in ids(projects) and "one" in ids(projects)
    await projects.close()


@needs_podman
async def test_a_label_of_an_image_and_one_that_is_no_entry_declare_nothing(made: Any) -> None:
    trap, bad = made("labelled"), made("plain", "--label", f"{LABEL}=x")
    labels = Labels(Podman())
    await labels.ask()
    assert "trap" not in labels.entries
    assert any(trap in problem and "its image's" in problem for problem in labels.problems)
    assert any(bad in problem for problem in labels.problems)


async def test_a_podman_that_is_not_there_leaves_the_projects_of_the_file(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, {"one": entry(file, "one")})
    projects = directory(file, find_by_label=True)
    projects.labels = labels = Labels(Podman("/no/such/podman"))
    await labels.ask()
    for _ in range(2):
        await projects.refresh()
    assert ids(projects) == ["one"]
    assert [record.getMessage().count("podman cannot be run") for record in caplog.records] == [1]
    await projects.close()


async def test_nobody_waits_for_podman(file: Path, tmp_path: Path) -> None:
    (slow := tmp_path / "podman").write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    write(file, {"one": entry(file, "one")})
    projects = directory(file, find_by_label=True)
    projects.labels = Labels(Podman(str(slow)))
    async with asyncio.timeout(5):
        await projects.refresh()
        assert ids(projects) == ["one"]
        await projects.close()
