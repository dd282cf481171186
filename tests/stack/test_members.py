"""Several people, two projects: who may do what, what each gets to know, and when it ends."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from people import Folders, Named, People
from tornado.httpclient import HTTPClientError

from jupyter_acp.handlers import ROUTES
from jupyter_acp.hub import LOOK_SECONDS
from jupyter_acp.projects.base import Role

#: a look is due within a second; a machine that is busy takes longer for what comes of it
PATIENCE = 20
METHODS = ("get", "post", "patch", "put", "delete")
IN_PROJECT = [
    (pattern, method.upper())
    for pattern, handler in ROUTES
    for method in METHODS
    if method in vars(handler) and "project_id" in pattern
]


def path_of(pattern: str, **names: str) -> list[str]:
    """A route with its names filled in; what is not named is x."""
    return re.sub(r"\(\?P<(\w+)>\[\^/\]\+\)", lambda m: names.get(m[1], "x"), pattern).strip("/").split("/")


@pytest.fixture
def jp_server_config(jp_server_config: dict[str, Any]) -> dict[str, Any]:
    jp_server_config["ServerApp"]["identity_provider_class"] = Named
    jp_server_config["AcpExtension"]["projects_class"] = Folders
    return jp_server_config


@pytest.fixture
def directory(drive: Any) -> Folders:
    """alpha: ann owns it, ben works in it, vic looks on. beta: only bob."""
    directory: Folders = drive.hub.directory
    directory.add("alpha", ann="owner", ben="collaborator", vic="viewer")
    directory.add("beta", bob="owner")
    return directory


@pytest.fixture
def people(directory: Folders, drive: Any, jp_fetch: Any, jp_ws_fetch: Any) -> People:
    return People(drive, jp_fetch, jp_ws_fetch)


async def next_look(people: People) -> None:
    """Return once the server has looked at its projects again."""
    looked = asyncio.Event()
    people.drive.hub.watchers.add(looked.set)
    async with asyncio.timeout(PATIENCE):
        await looked.wait()
    people.drive.hub.watchers.discard(looked.set)


async def end_of(socket: Any) -> tuple[int, str]:
    """How the server closes a socket, which it does after its next look."""
    async with asyncio.timeout(PATIENCE):
        while await socket.read_message() is not None:
            pass
    socket.close()
    return socket.close_code, socket.close_reason


async def test_a_person_sees_their_own_projects_with_their_role(people: People) -> None:
    seen = {name: await people(name).ok("GET", "projects") for name in ("ann", "ben", "vic", "bob", "eve")}
    roles = {name: {p["id"]: p["role"] for p in projects} for name, projects in seen.items()}
    assert roles == {
        "ann": {"alpha": "owner"},
        "ben": {"alpha": "collaborator"},
        "vic": {"alpha": "viewer"},
        "bob": {"beta": "owner"},
        "eve": {},
    }
    assert seen["ann"] == [{"id": "alpha", "name": "alpha", "state": "running", "role": "owner", "kind": "local"}]
    root = await people("ann").ok("GET")
    assert root["projects"] == seen["ann"] and root["user"]["username"] == "ann"
    details = await people("vic").ok("GET", "projects", "alpha")
    assert {name: details[name] for name in ("error", "network", "image", "usage")} == dict.fromkeys(
        ("error", "network", "image", "usage")
    )


@pytest.mark.parametrize(("pattern", "method"), IN_PROJECT)
async def test_who_is_not_a_member_gets_what_an_unknown_project_gives(
    people: People, pattern: str, method: str
) -> None:
    chat = await people("ann").open()
    answers = []
    for project in ("alpha", "nowhere"):
        path = path_of(pattern, project_id=project, session_id=chat.id)
        if pattern.endswith("/subscribe"):
            with pytest.raises(HTTPClientError) as refused:
                await people.ws_fetch("api/acp", *path, headers={"Authorization": "token token-of-bob"})
            assert refused.value.response is not None
            answer = refused.value.response.body.decode()
            answers.append((refused.value.code, refused.value.message, answer.replace(project, "PROJECT")))
        else:
            status, body = await people("bob").request(method, *path, body=None if method == "GET" else {})
            answers.append((status, body["reason"], body["message"].replace(project, "PROJECT")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


@pytest.mark.parametrize(
    ("pattern", "method"), [(p, m) for p, m in IN_PROJECT if m not in ("GET", "DELETE") and "uploads" not in p]
)
async def test_a_body_that_names_a_project_or_a_person_is_refused(people: People, pattern: str, method: str) -> None:
    chat = await people("ann").open()
    path = path_of(pattern, project_id="alpha", session_id=chat.id)
    for field in ("project", "project_id", "user", "username", "by"):
        assert await people("ann").request(method, *path, body={field: "beta"}) == (
            400,
            {"message": f"unknown fields: {field}", "reason": "unknown_field"},
        )


async def test_a_viewer_reads_and_changes_nothing(people: People) -> None:
    chat = await people("ann").open()
    vic = people("vic")
    needs_more = set()
    for pattern, method in IN_PROJECT:
        if pattern.endswith("/subscribe"):
            continue
        path = path_of(pattern, project_id="alpha", session_id=chat.id)
        status, body = await vic.request(method, *path, body=None if method == "GET" else {})
        if isinstance(body, dict) and body.get("reason") == "role_too_low":
            needs_more.add((path[-1], method))
        else:
            assert method == "GET", (path, status, body)
    assert ("logs", "GET") in needs_more and ("turns", "POST") in needs_more


async def test_what_is_an_owners_is_refused_to_a_collaborator(people: People) -> None:
    chat = await people("ben").open()
    assert (await people("ben").request("POST", "projects", "alpha", "start"))[0] == 202
    for method, path in (
        ("POST", ["stop"]),
        ("GET", ["logs"]),
        ("DELETE", ["sessions", chat.id, "activity"]),
    ):
        status, body = await people("ben").request(method, "projects", "alpha", *path)
        assert (status, body["reason"]) == (403, "role_too_low")
    assert await people("ann").ok("GET", "projects", "alpha", "logs") == {"text": ""}


async def test_this_machine_cannot_be_stopped(people: People) -> None:
    status, body = await people("ann").request("POST", "projects", "alpha", "stop")
    assert (status, body["reason"]) == (409, "not_stoppable")


async def test_two_projects_with_the_same_chat_have_each_their_own_conversation(
    people: People, directory: Folders
) -> None:
    ann = await people("ann").open("notes.chat")
    bob = await people("bob", "beta").open("notes.chat")
    await asyncio.gather(ann.run("/text only alpha", "t"), bob.run("/text only beta", "t"))
    assert (ann.text("t"), bob.text("t")) == ("only alpha", "only beta")
    assert "beta" not in str(ann.events) and "alpha" not in str(bob.events)
    # one who is a member of both: a session is found in its own project only
    directory.members["beta"]["ann"] = Role.OWNER
    status, body = await people("ann", "beta").request("GET", "projects", "beta", "sessions", ann.id)
    assert (status, body["reason"]) == (404, "unknown_session")
    assert [s["id"] for s in await people("ann").ok("GET", "projects", "beta", "sessions")] == [bob.id]


async def test_who_is_taken_out_is_out_of_the_events_within_a_second(people: People, directory: Folders) -> None:
    chat = await people("ann").open()
    theirs = await people("ben").subscribe(chat.id)
    mine = await people("ann").subscribe(chat.id)
    del directory.members["alpha"]["ben"]
    assert LOOK_SECONDS < 1
    assert await end_of(theirs) == (4403, "you are not a member of this project any more")
    assert (await people("ben").request("GET", "projects", "alpha"))[0] == 404
    await chat.submit("/text hello")
    assert await mine.read_message()
    mine.close()
    await end_of(mine)


async def test_where_nobody_can_tell_who_is_a_member_nobody_reads(
    people: People, directory: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await people("ann").open()
    socket = await people("ann").subscribe(chat.id)

    def fail(project: Any, username: str) -> Role:
        raise OSError("the source of the members is away")

    monkeypatch.setattr(directory, "role", fail)
    assert (await end_of(socket))[0] == 1011
    monkeypatch.undo()
    await next_look(people)
    await chat.run("/text goes on")


async def test_a_role_that_is_lowered_reads_on_and_commands_no_more(people: People, directory: Folders) -> None:
    chat = await people("ann").open()
    ben = people("ben")
    ben.conversations.append(theirs := type(chat)(ben, chat.id))
    await theirs.run("/text one")
    socket = await ben.subscribe(chat.id)
    directory.members["alpha"]["ben"] = Role.VIEWER
    # who connects again finds out what they may do now
    assert await end_of(socket) == (4409, "your role in this project has changed: connect again")
    await theirs.closed()
    assert await theirs.refused("POST", "turns", body={"id": "t2", "prompt": "x"}) == (403, "role_too_low")
    await chat.run("/text two", "t2")
    await theirs.until_kind("turn_ended", id="t2")


async def test_a_project_that_is_gone_closes_its_sockets_and_comes_back_with_its_sessions(
    people: People, directory: Folders
) -> None:
    chat = await people("ann").open()
    await chat.run("/text one")
    other = await people("bob", "beta").open()
    socket = await people("ann").subscribe(chat.id)
    declared = directory.found
    directory.remove("alpha")
    code, _ = await end_of(socket)
    assert code in (4403, 1011)
    assert (await people("ann").request("GET", "projects", "alpha", "sessions"))[0] == 404
    await other.run("/text goes on")
    directory.found = declared
    [summary] = await people("ann").ok("GET", "projects", "alpha", "sessions")
    assert summary["id"] == chat.id
    await chat.hang_up()
    await chat.run("/text two")


async def test_a_changed_declaration_is_in_force_without_a_restart(people: People, directory: Folders) -> None:
    chat = await people("ann").open()
    directory.change("alpha", name="Alpha")
    assert (await people("ann").ok("GET", "projects"))[0]["name"] == "Alpha"
    coordinator = people.drive.hub.coordinator(directory.found[0])
    await next_look(people)
    assert coordinator.project.name == "Alpha"
    assert (await chat.summary())["state"] == "idle"


async def test_another_folder_is_another_project(people: People, directory: Folders) -> None:
    chat = await people("ann").open()
    [before] = [c for c in people.drive.hub.known() if c.project.id == "alpha"]
    folder = directory.root / "gamma"
    folder.mkdir()
    directory.change("alpha", root=folder, place=str(folder))
    await next_look(people)
    assert before not in people.drive.hub.known()
    assert await people("ann").ok("GET", "projects", "alpha", "sessions") == []
    # its sessions wait where they were, and their agents
    root = before.project.root
    directory.change("alpha", root=root, place=str(root))
    await next_look(people)
    [summary] = await people("ann").ok("GET", "projects", "alpha", "sessions")
    assert summary["id"] == chat.id


async def test_only_who_asked_may_answer_where_the_project_says_so(people: People, directory: Folders) -> None:
    directory.change("alpha", requester_decides=True)
    chat = await people("ben").open()
    await chat.submit("/permission Write")
    question = (await chat.until_kind("permission_requested"))["data"]
    path = ("projects", "alpha", "sessions", chat.id)
    answer = {"option_id": question["options"][0]["optionId"]}
    status, body = await people("ann").request("POST", *path, "permissions", question["id"], body=answer)
    assert (status, body["reason"]) == (403, "not_requester")
    # an owner can end the turn instead
    await people("ann").ok("POST", *path, "interrupt", body={})
    await chat.until_kind("turn_ended")
    await chat.submit("/permission Write")
    question = (await chat.until_kind("permission_requested"))["data"]
    await chat.call("POST", "permissions", question["id"], body=answer)
    await chat.until_kind("turn_ended", stop_reason="end_turn")


async def test_a_chat_that_is_renamed_or_deleted_through_jupyter_keeps_or_loses_its_session_in_its_project(
    people: People, jp_fetch: Any
) -> None:
    ann, bob = await people("ann").open("a.chat"), await people("bob", "beta").open("a.chat")

    async def contents(method: str, path: str, body: str | None = None) -> None:
        headers = {"Authorization": "token token-of-ann"}
        await jp_fetch("api/contents", path, method=method, body=body, headers=headers, allow_nonstandard_methods=True)

    await contents("PATCH", "alpha/a.chat", '{"path": "alpha/b.chat"}')
    await ann.until_kind("session_changed", path="b.chat")
    await contents("DELETE", "beta/a.chat")
    await bob.until_kind("session_closed")
    assert (await ann.summary())["path"] == "b.chat"


class TestWithAFile:
    """The same with the members in a file, as people have it."""

    @pytest.fixture
    def jp_server_config(self, jp_server_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
        (file := tmp_path / "projects.json").write_text('{"local": {"members": {"ann": "owner", "ben": "viewer"}}}')
        jp_server_config["AcpExtension"]["projects_class"] = "jupyter_acp.projects.podman.PodmanProjects"
        jp_server_config["PodmanProjects"] = {"file": str(file), "local": True}
        return jp_server_config

    async def test_who_is_taken_out_of_the_file_is_out_within_a_second(
        self, drive: Any, jp_fetch: Any, jp_ws_fetch: Any, tmp_path: Path
    ) -> None:
        people = People(drive, jp_fetch, jp_ws_fetch)
        chat = await people("ann", "local").open()
        socket = await people("ben", "local").subscribe(chat.id)
        assert await socket.read_message()
        (tmp_path / "projects.json").write_text('{"local": {"members": {"ann": "owner"}}}')
        assert LOOK_SECONDS < 1
        assert (await end_of(socket))[0] == 4403
        assert (await people("ben", "local").request("GET", "projects", "local"))[0] == 404
        await chat.run("/text goes on")
