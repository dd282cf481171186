"""What turns have changed, with real files and a real git."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from jupyter_acp.diffs.shadow import Entry, Shadow
from jupyter_acp.diffs.tracker import ChangeTracker, _now
from jupyter_acp.exceptions import Conflict, NotFound

GOLDEN = Path(__file__).parents[1] / "golden" / "diffs"


class Project:
    """A folder and its tracker; `again` is the same after a crash of the server."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.root = folder / "project"
        self.root.mkdir(exist_ok=True)
        self._folder = folder
        self._limits = limits
        self.tracker = self.again()

    def again(self) -> ChangeTracker:
        self.tracker = ChangeTracker(Shadow(self._folder / "shadow", self.root), **self._limits)
        return self.tracker

    def write(self, path: str, text: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else text.encode())

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    async def begin(self, name: str, scope: str = ".") -> None:
        """A turn begins, and is looked at, some time after whatever happened before, by the file system's clock too."""
        now = time.time_ns()
        while _now().stamp <= now:
            await asyncio.to_thread(os.sched_yield)
        self.tracker.begin(name, scope)
        await self.tracker.settle()

    async def diffs(self, name: str) -> dict[str, tuple[str, bool]]:
        """The unified diffs of a turn by path, and whether their ends are left out."""
        files = (await self.tracker.diff(name))["files"]
        return {file["path"]: (file["diff"], "truncated" in file) for file in files if not file.get("large")}

    async def ended(self, name: str) -> dict[str, str]:
        """By path the kind of change, and what else there is to say of it."""
        return {
            file.path: " ".join(
                [
                    file.change,
                    f"+{file.added} -{file.removed}",
                    *(word for word in ("binary", "large", "shared", "delegated") if getattr(file, word)),
                    *([f"from {file.old_path}"] if file.old_path else []),
                ]
            )
            for file in await self.tracker.end(name)
        }


def repository(folder: Path) -> None:
    """A repository as git makes it."""
    subprocess.run(["git", "init", "-q", folder], check=True)


def edits(path: str) -> dict[str, object]:
    """A tool call that has changed a file."""
    return {"toolCallId": "1", "kind": "edit", "status": "completed", "locations": [{"path": path}]}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.write("a.txt", "one\ntwo\nthree\n")
    made.write("b.txt", "".join(f"line {number}\n" for number in range(50)))
    made.write("sub/c.txt", "c\n")
    return made


async def test_a_turn_that_changed_nothing_leaves_nothing(project: Project) -> None:
    await project.begin("s/t1")
    assert await project.ended("s/t1") == {}
    assert await project.tracker.shadow.records() == {}


async def test_new_changed_removed_and_renamed_files_are_told_with_their_lines(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "one\n2\nthree\nfour\n")
    project.write("new/n.txt", "n\n")
    (project.root / "sub/c.txt").unlink()
    (project.root / "b.txt").rename(project.root / "b2.txt")
    assert await project.ended("s/t1") == {
        "a.txt": "modified +2 -1",
        "b2.txt": "renamed +0 -0 from b.txt",
        "new/n.txt": "added +1 -0",
        "sub/c.txt": "deleted +0 -1",
    }
    told = await project.diffs("s/t1")
    assert told["a.txt"][0].endswith("@@ -1,3 +1,4 @@\n one\n-two\n+2\n three\n+four\n")
    assert "rename from b.txt" in told["b2.txt"][0]


async def test_what_a_person_did_between_turns_is_nobodys(project: Project) -> None:
    await project.begin("s/t1")
    await project.ended("s/t1")
    project.write("a.txt", "mine\n")
    await project.begin("s/t2")
    project.write("sub/c.txt", "agent's\n")
    assert await project.ended("s/t2") == {"sub/c.txt": "modified +1 -1"}


async def test_what_a_person_saved_during_a_turn_is_theirs(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "mine\n")
    project.tracker.saved("a.txt")
    project.write("sub/c.txt", "agent's\n")
    assert await project.ended("s/t1") == {"sub/c.txt": "modified +1 -1"}


async def test_what_is_changed_and_changed_back_is_no_change(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "other\n")
    await project.begin("s/t2", "sub")
    project.write("a.txt", "one\ntwo\nthree\n")
    assert await project.ended("s/t1") == {}
    assert await project.tracker.shadow.records() == {}


async def test_what_an_agent_writes_before_the_project_was_looked_at_is_not_missed(project: Project) -> None:
    await project.tracker.prepare(".")
    for round in range(10):
        project.tracker.begin(f"s/t{round}", ".")
        project.write("a.txt", f"{round}\n")
        await project.tracker.settle()
        assert (await project.ended(f"s/t{round}"))["a.txt"].endswith("shared")


async def test_a_persons_new_file_that_the_agent_overwrites_at_once_is_not_removed_by_a_revert(
    project: Project,
) -> None:
    await project.tracker.prepare(".")
    project.write("new.txt", "mine\n")
    project.tracker.begin("s/t1", ".")
    project.write("new.txt", "agent's\n")
    await project.tracker.settle()
    assert await project.ended("s/t1") == {"new.txt": "added +1 -0 shared"}
    with pytest.raises(Conflict, match=r"new\.txt: others may have changed it"):
        await project.tracker.revert("s/t1")


async def test_what_a_person_removed_before_the_turn_is_not_taken_for_the_turns_alone(project: Project) -> None:
    await project.tracker.prepare(".")
    (project.root / "a.txt").unlink()
    (project.root / "sub/c.txt").unlink()
    await project.begin("s/t1")
    assert await project.ended("s/t1") == {}
    (project.root / "a.txt").write_text("again")
    await project.begin("s/t2")
    await project.ended("s/t2")
    (project.root / "a.txt").unlink()
    project.tracker.begin("s/t1", ".")
    project.write("talk.chat", "touches the folder")
    await project.tracker.settle()
    assert await project.ended("s/t1") == {"a.txt": "deleted +0 -1 shared"}


async def test_a_file_that_became_a_link_is_shown_as_both(project: Project) -> None:
    await project.begin("s/t1")
    (project.root / "a.txt").unlink()
    (project.root / "a.txt").symlink_to("b.txt")
    project.write("sub/c.txt", "x\n")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3", "sub/c.txt": "modified +1 -1"}
    told = await project.diffs("s/t1")
    assert told["a.txt"][0].count("diff --git") == 2
    assert told["sub/c.txt"][0].endswith("-c\n+x\n")


async def test_ignored_files_and_conversations_are_left_out(project: Project) -> None:
    project.write(".gitignore", "build/\n*.log\n")
    await project.begin("s/t1")
    for path in ("build/x", "x.log", "talk.chat", ".talk.chat.acp.json", ".acp/uploads/u", "sub/.gitignore"):
        project.write(path, "x\n")
    assert await project.ended("s/t1") == {"sub/.gitignore": "added +1 -0"}


async def test_a_write_that_the_agent_delegated_is_seen_where_git_ignores_it(project: Project) -> None:
    project.write(".gitignore", "*.log\n")
    project.write("x.log", "old\n")
    await project.begin("s/t1")
    await project.tracker.writes("s/t1", str(project.root / "x.log"))
    project.write("x.log", "new\n")
    assert await project.ended("s/t1") == {"x.log": "modified +1 -1 delegated"}


async def test_binary_and_large_files_are_told_without_their_contents(tmp_path: Path) -> None:
    project = Project(tmp_path, max_size=1000)
    project.write("big", "x" * 5000)
    project.write("also-big", "x" * 5000)
    await project.begin("s/t1")
    project.write("big", "y" * 5000)
    project.write("picture", bytes(range(256)))
    assert await project.ended("s/t1") == {"big": "modified +0 -0 large", "picture": "added +0 -0 binary"}
    tracker = project.again()
    await project.begin("s/t2")
    project.write("also-big", "z" * 5000)
    assert await project.ended("s/t2") == {"also-big": "modified +0 -0 large"}
    with pytest.raises(Conflict, match="also-big: too large"):
        await tracker.revert("s/t2")


async def test_a_file_that_became_a_pipe_keeps_nothing_from_being_followed(project: Project) -> None:
    await project.begin("s/t1")
    (project.root / "a.txt").unlink()
    os.mkfifo(project.root / "a.txt")
    project.write("sub/c.txt", "x\n")
    assert await project.ended("s/t1") == {"a.txt": "modified +0 -0 large", "sub/c.txt": "modified +1 -1"}
    await project.begin("s/t2")
    project.write("b.txt", "x\n")
    assert await project.ended("s/t2") == {"b.txt": "modified +1 -50"}


async def test_the_contents_are_kept_byte_for_byte_whatever_gitattributes_say(project: Project) -> None:
    project.write(".gitattributes", "* text=auto eol=crlf ident filter=evil\n")
    project.write("w.txt", "a\r\nb\n$Id$\r\n")
    repository(project.root)
    with (project.root / ".git/config").open("a") as config:
        config.write(f'[filter "evil"]\n\tclean = "touch {project.root}/pwned; cat"\n')
    await project.begin("s/t1")
    project.write("w.txt", "c\r\n")
    await project.ended("s/t1")
    await project.tracker.revert("s/t1")
    assert (project.root / "w.txt").read_bytes() == b"a\r\nb\n$Id$\r\n"
    assert not (project.root / "pwned").exists()


async def test_the_projects_own_repository_is_neither_read_nor_written(project: Project) -> None:
    repository(project.root)
    (project.root / ".git/hooks/post-index-change").write_text(f"#!/bin/sh\ntouch {project.root}/pwned\n")
    (project.root / ".git/hooks/post-index-change").chmod(0o755)
    before = sorted(path.name for path in (project.root / ".git").iterdir())
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3"}
    assert sorted(path.name for path in (project.root / ".git").iterdir()) == before
    assert not (project.root / "pwned").exists()


async def test_files_of_a_repository_inside_the_project_are_followed_too(project: Project) -> None:
    for inner in ("lib", "lib/deeper"):
        repository(project.root / inner)
        project.write(f"{inner}/.gitignore", "*.o\n")
        project.write(f"{inner}/x.c", "x\n")
    await project.begin("s/t1")
    project.write("lib/x.c", "y\n")
    project.write("lib/deeper/x.c", "z\n")
    project.write("lib/deeper/x.o", "o\n")
    assert await project.ended("s/t1") == {"lib/deeper/x.c": "modified +1 -1", "lib/x.c": "modified +1 -1"}


@pytest.mark.parametrize(
    "name",
    ["a b", 'q"uote', "new\nline", "back\\slash", "-dash", "ü", "#x", "[x]*", "git~1", "a:b", ":(top)x", "tab\tx"],
)
async def test_a_name_is_only_a_name(project: Project, name: str) -> None:
    project.write(name, "1\n")
    await project.begin("s/t1")
    project.write(name, "2\n")
    assert await project.ended("s/t1") == {name: "modified +1 -1"}
    assert list(await project.diffs("s/t1")) == [name]
    await project.tracker.revert("s/t1", [name])
    assert project.read(name) == "1\n"


async def test_two_turns_in_different_folders_have_each_their_own(project: Project) -> None:
    await project.begin("s/t1", "sub")
    await project.begin("r/t1", "other")
    project.write("sub/c.txt", "1\n")
    project.write("other/o.txt", "2\n")
    assert await project.ended("r/t1") == {"other/o.txt": "added +1 -0"}
    assert await project.ended("s/t1") == {"sub/c.txt": "modified +1 -1"}


async def test_of_two_turns_in_one_folder_each_has_what_its_calls_name(project: Project) -> None:
    await project.begin("s/t1")
    await project.begin("r/t1")
    for turn, path in (("s/t1", "a.txt"), ("r/t1", "sub/c.txt")):
        project.tracker.call(turn, edits(path))
        project.write(path, "x\n")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3"}
    assert await project.ended("r/t1") == {"sub/c.txt": "modified +1 -1"}


async def test_what_two_turns_may_both_have_done_is_marked_shared(project: Project) -> None:
    await project.begin("s/t1")
    await project.begin("r/t1")
    run = {"toolCallId": "1", "kind": "execute", "status": "in_progress"}
    project.tracker.call("s/t1", edits("a.txt"))
    project.tracker.call("r/t1", run)
    project.write("a.txt", "x\n")
    project.write("sub/c.txt", "x\n")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3 shared"}
    assert await project.ended("r/t1") == {"a.txt": "modified +1 -3 shared", "sub/c.txt": "modified +1 -1"}
    with pytest.raises(Conflict, match=r"a\.txt: others may have changed it"):
        await project.tracker.revert("r/t1")
    assert project.read("sub/c.txt") == "x\n"
    await project.tracker.revert("r/t1", ["a.txt", "sub/c.txt"])
    assert (project.read("a.txt"), project.read("sub/c.txt")) == ("one\ntwo\nthree\n", "c\n")


async def test_what_was_done_before_the_other_turn_began_stays_ones_own(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    await project.begin("r/t1")
    project.write("sub/c.txt", "both?\n")
    assert await project.ended("r/t1") == {"sub/c.txt": "modified +1 -1 shared"}
    project.write("alone.txt", "x\n")
    assert await project.ended("s/t1") == {
        "a.txt": "modified +1 -3",
        "alone.txt": "added +1 -0",
        "sub/c.txt": "modified +1 -1 shared",
    }


async def test_a_file_that_others_have_changed_in_between_is_marked_shared(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "1\n")
    await project.begin("r/t1")
    project.tracker.call("r/t1", edits("a.txt"))
    project.write("a.txt", "2\n")
    assert await project.ended("r/t1") == {"a.txt": "modified +1 -1"}
    project.write("a.txt", "3\n")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3 shared"}


async def test_a_call_that_has_ended_explains_nothing_that_is_changed_later(project: Project) -> None:
    await project.begin("s/t1")
    await project.begin("r/t1")
    project.tracker.call("s/t1", edits("a.txt"))
    project.write("a.txt", "1\n")
    await project.begin("q/t1", "elsewhere")
    project.write("a.txt", "2\n")
    assert await project.ended("r/t1") == {"a.txt": "modified +1 -1 shared"}
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3 shared"}


async def test_a_large_file_that_nobody_touched_is_no_change_after_a_crash(tmp_path: Path) -> None:
    project = Project(tmp_path, max_size=1000)
    project.write("big", "x" * 5000)
    await project.begin("s/t1")
    project.again().resume("s/t1", ".")
    assert await project.ended("s/t1") == {}


async def test_a_crash_in_mid_turn_loses_nothing_of_it(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    await project.begin("r/t1")
    tracker = project.again()
    project.write("sub/c.txt", "while it was away\n")
    tracker.resume("s/t1", ".")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3", "sub/c.txt": "modified +1 -1"}


async def test_a_turn_is_undone_whole(project: Project) -> None:
    (project.root / "sub/c.txt").chmod(0o755)
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    project.write("deep/er/n.txt", "n\n")
    (project.root / "sub/c.txt").unlink()
    (project.root / "b.txt").rename(project.root / "b2.txt")
    await project.ended("s/t1")
    assert await project.tracker.revert("s/t1") == ["a.txt", "b.txt", "b2.txt", "deep/er/n.txt", "sub/c.txt"]
    assert project.read("a.txt") == "one\ntwo\nthree\n"
    assert sorted(str(p.relative_to(project.root)) for p in project.root.rglob("*") if p.is_file()) == [
        "a.txt",
        "b.txt",
        "sub/c.txt",
    ]
    assert not (project.root / "deep").exists()
    assert os.access(project.root / "sub/c.txt", os.X_OK)


async def test_nothing_is_undone_where_one_file_has_changed_since(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "agent's\n")
    project.write("sub/c.txt", "agent's\n")
    await project.ended("s/t1")
    project.write("a.txt", "mine\n")
    with pytest.raises(Conflict, match=r"a\.txt: changed since"):
        await project.tracker.revert("s/t1")
    assert (project.read("a.txt"), project.read("sub/c.txt")) == ("mine\n", "agent's\n")
    assert await project.tracker.revert("s/t1", ["sub/c.txt"]) == ["sub/c.txt"]
    assert (project.read("a.txt"), project.read("sub/c.txt")) == ("mine\n", "c\n")


async def test_undoing_is_no_change_of_a_turn_that_runs(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    await project.ended("s/t1")
    await project.begin("s/t2")
    project.write("sub/c.txt", "x\n")
    await project.tracker.revert("s/t1")
    assert await project.ended("s/t2") == {"sub/c.txt": "modified +1 -1"}


async def test_a_path_or_a_turn_that_changed_nothing_cannot_be_undone(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    await project.ended("s/t1")
    with pytest.raises(NotFound, match=r"has not changed \.\./x"):
        await project.tracker.revert("s/t1", ["../x"])
    with pytest.raises(NotFound, match="nothing is kept"):
        await project.tracker.revert("s/t9")


async def test_a_file_that_became_a_link_out_of_the_project_is_not_written_through(project: Project) -> None:
    outside = project.root.parent / "outside"
    outside.write_text("mine\n")
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    await project.ended("s/t1")
    (project.root / "a.txt").unlink()
    (project.root / "a.txt").symlink_to(outside)
    with pytest.raises(Conflict, match=r"a\.txt: changed since"):
        await project.tracker.revert("s/t1")
    assert outside.read_text() == "mine\n"


async def test_a_folder_with_too_many_files_is_not_compared_and_that_is_said(tmp_path: Path) -> None:
    project = Project(tmp_path, max_files=10)
    for number in range(20):
        project.write(f"{number}", "x")
    await project.begin("s/t1")
    project.write("1", "y")
    assert await project.ended("s/t1") == {}
    note = await project.tracker.shadow.note("s/t1")
    assert note is not None
    assert note["incomplete"] == "there are more than 10 files"


async def test_where_git_is_missing_that_is_said(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    tracker = project.again()
    await project.begin("s/t1")
    assert await project.ended("s/t1") == {}
    told = await tracker.diff("s/t1")
    assert told["incomplete"] == "git is not installed, so changes of files are not compared"


async def test_records_that_are_forgotten_give_their_space_back(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "unique contents\n")
    await project.ended("s/t1")
    _, after = await project.tracker.shadow.states("s/t1")
    project.write("a.txt", "other\n")
    await project.begin("r/t2")
    await project.ended("r/t2")
    await project.tracker.forget("s")
    assert await project.tracker.shadow.records() == {}
    with pytest.raises(Exception, match="cat-file"):
        await project.tracker.shadow.contents(after["a.txt"].blob)


async def test_turns_that_begin_and_end_at_once_share_their_looks(project: Project) -> None:
    await project.tracker.prepare(".")
    looks = 0
    changed = project.tracker.shadow.changed

    async def counted(scopes: Iterable[str]) -> list[str]:
        nonlocal looks
        looks += 1
        return await changed(scopes)

    project.tracker.shadow.changed = counted  # type: ignore[method-assign]
    for number in range(50):
        project.tracker.begin(f"s{number}/t1", ".")
    await asyncio.gather(*(project.tracker.settle() for _ in range(50)))
    await asyncio.gather(*(project.tracker.end(f"s{number}/t1") for number in range(50)))
    assert looks <= 4


async def test_what_a_look_has_taken_before_a_crash_and_not_yet_credited_is_still_the_turns(project: Project) -> None:
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    entries = project.tracker.shadow.entries

    async def die(paths: Sequence[str] | None = None) -> dict[str, Entry]:
        await entries(paths)
        raise KeyboardInterrupt

    project.tracker.shadow.entries = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await project.tracker._look_at_all(_now())
    project.again().resume("s/t1", ".")
    assert await project.ended("s/t1") == {"a.txt": "modified +1 -3"}


async def test_edits_that_cannot_be_seen_are_told_as_the_agent_reports_them(project: Project) -> None:
    project.write(".gitignore", "*.log\n")
    outside = str(project.root.parent / "outside.txt")
    await project.begin("s/t1")
    shown = [
        {"type": "diff", "path": "x.log", "oldText": "one\n", "newText": "two\n"},
        {"type": "diff", "path": outside, "oldText": None, "newText": "new\n"},
        {"type": "diff", "path": "a.txt", "oldText": "said", "newText": "not done"},
    ]
    project.tracker.call("s/t1", {"toolCallId": "1", "kind": "edit", "status": "completed", "content": shown})
    told = await project.tracker.end("s/t1")
    assert [(file.path, file.change, file.added, file.removed, file.reported) for file in told] == [
        (outside, "added", 1, 0, True),
        ("x.log", "modified", 1, 1, True),
    ]
    texts = await project.diffs("s/t1")
    assert texts["x.log"][0].endswith("--- a/x.log\n+++ b/x.log\n@@ -1 +1 @@\n-one\n+two\n")
    with pytest.raises(NotFound, match=r"has not changed x\.log"):
        await project.tracker.revert("s/t1", ["x.log"])


async def test_an_edit_that_an_agent_reports_without_a_whole_path_is_in_the_folder_that_it_works_in(
    project: Project,
) -> None:
    await project.begin("s/t1", "sub")
    shown = [{"type": "diff", "path": "c.txt", "oldText": "c\n", "newText": "new\n"}]
    project.tracker.call("s/t1", {"toolCallId": "1", "kind": "edit", "status": "completed", "content": shown})
    project.write("sub/c.txt", "new\n")
    told = await project.tracker.end("s/t1")
    assert [(file.path, file.change, file.reported) for file in told] == [("sub/c.txt", "modified", False)]


async def test_a_turn_is_shown_as_the_golden_file_says(tmp_path: Path) -> None:
    project = Project(tmp_path, max_size=1000)

    def book(*sources: str) -> str:
        about = {"cell_type": "markdown", "metadata": {}}
        cells = [{**about, "id": f"cell{n}", "source": source} for n, source in enumerate(sources)]
        return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}) + "\n"

    project.write(".gitignore", "*.log\n")
    project.write("a.py", "def f():\n" + "".join(f"    x{n} = {n}\n" for n in range(20)))
    project.write("book.ipynb", book("one", "two"))
    project.write("gone.txt", "one\r\ntwo\r\n")
    project.write("old.txt", "the same\n" * 5)
    project.write("run.sh", "ls\n")
    await project.begin("s/t1")
    project.write("a.py", project.read("a.py").replace("x2 = 2", "x2 = 3").replace("    x19 = 19\n", "    y = 0"))
    project.write("book.ipynb", book("one", "2"))
    project.write("image.bin", b"\0\1")
    project.write("large.bin", "x" * 1001)
    (project.root / "gone.txt").unlink()
    (project.root / "old.txt").rename(project.root / "new.txt")
    (project.root / "run.sh").chmod(0o755)
    shown = {"type": "diff", "path": "x.log", "oldText": "one\n", "newText": "two\n"}
    project.tracker.call("s/t1", {"toolCallId": "1", "kind": "edit", "status": "completed", "content": [shown]})
    await project.tracker.end("s/t1")
    project.write("gone.txt", "one\r\ntwo\r\n")
    project.write("image.bin", b"\0\2")
    assert await project.tracker.diff("s/t1") == json.loads((GOLDEN / "turn.json").read_text("utf-8"))


async def test_where_changes_are_not_followed_nothing_is_looked_at(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.tracker = ChangeTracker(project.tracker.shadow, missing="not wanted")
    await project.begin("s/t1")
    project.write("a.txt", "x\n")
    assert await project.ended("s/t1") == {}
    assert not project.tracker.shadow.folder.exists()
    assert (await project.tracker.diff("s/t1"))["incomplete"] == "not wanted"
