"""Projects come and go: which coordinators there are, when they are made, and that one keeps no other from anything."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from people import Folders

from jupyter_acp.agentspec import Catalogue
from jupyter_acp.coordinator import Coordinator, Settings
from jupyter_acp.exceptions import NotFound, Unavailable
from jupyter_acp.hub import ProjectHub
from jupyter_acp.projects.base import Project
from jupyter_acp.session import Limits
from jupyter_acp.sites.local import LocalSite, Machine
from jupyter_acp.store import Store


class Stubborn(Coordinator):
    """Fails to let go of what is its own."""

    async def stop(self) -> None:
        """Not in order."""
        await super().stop()
        raise RuntimeError("stubborn")


class Told(Coordinator):
    """Tells when it is ready and when it has let go."""

    story: list[tuple[str, Coordinator]]

    async def ready(self) -> None:
        """As ever."""
        await super().ready()
        self.story.append(("ready", self))

    async def stop(self) -> None:
        """As ever."""
        await super().stop()
        self.story.append(("let go", self))


@pytest.fixture
def directory(tmp_path: Path) -> Folders:
    (tmp_path / "projects").mkdir()
    directory = Folders(tmp_path / "projects")
    for name in ("one", "two"):
        directory.add(name, ann="owner")
    return directory


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Project], Coordinator]:
    def make(project: Project) -> Coordinator:
        return {"stubborn": Stubborn, "told": Told}.get(project.name, Coordinator)(
            store=Store(tmp_path / f"{project.id}.db"),
            project=project,
            site=LocalSite(project, Machine(runtime_dir=tmp_path / "run", environment=dict(os.environ))),
            catalogue=Catalogue.load(directories=[], configured={}, default="demo"),
            settings=Settings(snapshots=tmp_path / "snapshots", limits=Limits()),
        )

    return make


def served(hub: ProjectHub) -> list[str]:
    return [coordinator.project.id for coordinator in hub.known()]


async def test_a_coordinator_is_made_when_it_is_wanted_and_is_the_same_from_then_on(
    directory: Folders, make: Callable[[Project], Coordinator]
) -> None:
    hub = ProjectHub(directory, make, has_work=lambda project: False)
    await hub.start()
    assert served(hub) == []
    one = await hub.serving(directory.projects()[0])
    assert await hub.serving(directory.projects()[0]) is one
    assert served(hub) == ["one"]
    await hub.stop()


async def test_what_an_earlier_server_left_goes_on_at_the_start(
    directory: Folders, make: Callable[[Project], Coordinator], tmp_path: Path
) -> None:
    hub = ProjectHub(directory, make, has_work=lambda project: project.id == "two")
    await hub.start()
    assert served(hub) == ["two"]
    assert (tmp_path / "two.db").exists()
    await hub.stop()


async def test_a_project_that_cannot_be_served_keeps_no_other_from_it(
    directory: Folders, make: Callable[[Project], Coordinator], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "one.db").mkdir()
    hub = ProjectHub(directory, make)
    await hub.start()
    assert any("project=one was not made ready" in record.getMessage() for record in caplog.records)
    assert (await hub.serving(directory.projects()[1])).summaries() == []
    await hub.stop()


async def test_a_project_that_comes_back_at_once_has_its_sessions_and_one_writer(
    directory: Folders, make: Callable[[Project], Coordinator]
) -> None:
    directory.change("one", name="told")
    Told.story = []
    hub = ProjectHub(directory, make)
    await hub.start()
    one = directory.projects()[0]
    before = await hub.serving(one)
    Told.story.clear()
    session, _ = await before.open("a.chat")
    directory.remove("one")
    await hub.refresh()
    assert served(hub) == ["two"]
    directory.found.append(one)
    after = await hub.serving(one)
    assert Told.story == [("let go", before), ("ready", after)]
    assert [summary["id"] for summary in after.summaries()] == [session.row.id]
    await after.close(session.row.id)
    await hub.stop()


async def test_a_folder_that_was_declared_this_moment_is_not_served_from_the_one_before(
    directory: Folders, make: Callable[[Project], Coordinator]
) -> None:
    hub = ProjectHub(directory, make)
    await hub.start()
    session, _ = await (await hub.serving(directory.projects()[0])).open("a.chat")
    directory.change("one", root=directory.add("other"), place=str(directory.root / "other"))
    directory.remove("other")
    now = await hub.serving(directory.projects()[0])  # no look in between
    assert now.project.root == directory.root / "other" and now.summaries() == []
    with pytest.raises(NotFound):
        await now.get(session.row.id)
    await hub.stop()


async def test_a_project_that_is_taken_away_while_it_is_made_ready_leaves_nothing_open(
    directory: Folders, make: Callable[[Project], Coordinator]
) -> None:
    hub = ProjectHub(directory, make, has_work=lambda project: False)
    await hub.start()
    one = directory.projects()[0]
    before = hub.coordinator(one)
    begun = asyncio.create_task(hub.serving(one))
    await asyncio.sleep(0)  # it opens its database
    directory.remove("one")
    await hub.refresh()
    await asyncio.gather(begun, return_exceptions=True)
    directory.found.append(one)
    session, _ = await (await hub.serving(one)).open("a.chat")
    with pytest.raises(Unavailable):
        await before.ready()
    await (await hub.serving(one)).close(session.row.id)
    await hub.stop()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("acp-")] == []


async def test_one_that_fails_to_end_keeps_no_other_from_it(
    directory: Folders, make: Callable[[Project], Coordinator], caplog: pytest.LogCaptureFixture
) -> None:
    directory.change("one", name="stubborn")
    hub = ProjectHub(directory, make)
    await hub.start()
    two = await hub.serving(directory.projects()[1])
    session, _ = await two.open("a.chat")
    await two.close(session.row.id)
    await hub.stop()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "project=one was not let go in order"
    ]
    with pytest.raises(Exception, match="there is no session"):
        await two.get(session.row.id)


async def test_a_directory_that_fails_leaves_all_as_it_was_and_is_told_once(
    directory: Folders,
    make: Callable[[Project], Coordinator],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = ProjectHub(directory, make)
    await hub.start()

    async def fail() -> None:
        raise OSError("the source is away")

    monkeypatch.setattr(directory, "refresh", fail)
    for _ in range(3):
        await hub.refresh()
    assert served(hub) == ["one", "two"]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == ["the projects cannot be followed"]
    await hub.stop()
