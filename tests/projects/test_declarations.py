"""What a file of projects may say, and what becomes of one that says something else."""

import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.projects.base import ContainerSpec, Role
from jupyter_acp.projects.declarations import Wrong, declared, read
from jupyter_acp.projects.local import local_project


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    return tmp_path / "one"


@pytest.fixture
def entry(folder: Path) -> dict[str, Any]:
    return {"image": "localhost/project", "folder": str(folder), "members": {"ann": "owner"}}


def problem(entry: object, id: str = "one", **options: Any) -> str:
    """The sentence about the only entry, which must be left out."""
    found, [sentence] = declared({id: entry}, **options)
    assert not found
    return sentence.removeprefix(f"the project {id!r} is left out: ")


def test_an_entry_has_defaults_for_all_but_image_and_folder(entry: dict[str, Any], folder: Path) -> None:
    found, problems = declared({"one": entry})
    assert problems == []
    project = found["one"].project
    assert (project.id, project.name, project.root, project.place) == ("one", "one", folder, "/project")
    assert project.container == ContainerSpec(image="localhost/project")
    assert (project.agents, project.requester_decides, project.token_limit) == (None, False, 0)
    assert found["one"].members == {"ann": Role.OWNER}


def test_an_entry_says_all_that_there_is_to_a_project(entry: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    entry |= {
        "name": "One",
        "network": "none",
        "memory": "512m",
        "cpus": 1,
        "pids": 100,
        "mounts": {"/opt/tools": str(tmp_path / "tools")},
        "idle_timeout": 60,
        "agents": {"codex": "host-remote", "demo": None},
        "permissions": "requester",
        "tokens_per_day": 1000,
    }
    found, problems = declared({"one": entry})
    assert problems == []
    project = found["one"].project
    assert project.container == ContainerSpec(
        image="localhost/project",
        network="none",
        memory="512m",
        cpus=1.0,
        pids=100,
        mounts={"/opt/tools": str(tmp_path / "tools")},
        idle_timeout=60.0,
    )
    assert project.agents == {"codex": "host-remote", "demo": None}
    assert (project.name, project.requester_decides, project.token_limit) == ("One", True, 1000)


@pytest.mark.parametrize("id", ["", "A", "-a", "../a", "a/b", "a" * 42, "ä", "a\n"])
def test_an_id_is_one_that_can_be_a_file_and_part_of_a_url(entry: dict[str, Any], id: str) -> None:
    assert problem(entry, id).startswith("an id is")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"owner": "ann", "gpu": 1}, "it cannot have gpu, owner"),
        ({"members": ["ann"]}, "members is"),
        ({"members": {"ann": "admin"}}, "the role of ann is 'admin'"),
        ({"members": {"ann": ["owner"]}}, "the role of ann is ['owner']"),
        ({"members": {"": "owner"}}, "members is"),
        ({"image": None}, "image must be"),
        ({"image": "--privileged"}, "image must be"),
        ({"image": "a b"}, "image must be"),
        ({"folder": None}, "folder must be"),
        ({"folder": "relative"}, "folder must be"),
        ({"folder": "/tmp/a:b"}, "folder must be"),
        ({"folder": "/"}, "its folder would be"),
        ({"folder": "/no/such/folder"}, "/no/such/folder: No such file"),
        ({"folder": "/etc/passwd"}, "/etc/passwd is no directory"),
        ({"network": "host"}, "network is 'host'"),
        ({"network": ["none"]}, "network is ['none']"),
        ({"memory": "much"}, "memory is 'much'"),
        ({"memory": 5}, "memory is 5"),
        ({"cpus": 0}, "cpus must be"),
        ({"cpus": True}, "cpus must be"),
        ({"pids": 1.5}, "pids must be"),
        ({"idle_timeout": "1h"}, "idle_timeout must be"),
        ({"tokens_per_day": -1}, "tokens_per_day must be"),
        ({"permissions": "nobody"}, "permissions is 'nobody'"),
        ({"agents": "codex"}, "agents is a list"),
        ({"agents": {"codex": "elsewhere"}}, "agents is a list"),
        ({"agents": {"codex": ["project"]}}, "agents is a list"),
        ({"mounts": {"/project/x": "/usr"}}, "nothing can be mounted at /project/x"),
        ({"mounts": {"/run": "/usr"}}, "nothing can be mounted at /run"),
        ({"mounts": {"/opt": "/usr:ro"}}, "both sides of mounts"),
        ({"mounts": {"opt": "/usr"}}, "both sides of mounts"),
        ({"mounts": {"/opt": "/no/such"}}, "/no/such is no directory"),
        ({"name": 5}, "name must be"),
        ({"name": "a\x1b[2J"}, "name must be"),
    ],
)
def test_an_entry_that_says_something_else_is_left_out_with_a_sentence(
    entry: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    assert problem({**entry, **change}).startswith(said)


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_object_is_no_entry(value: object) -> None:
    assert problem(value) == "an entry is an object"


def test_a_bad_entry_leaves_the_others(entry: dict[str, Any]) -> None:
    found, problems = declared({"bad": {}, "one": entry})
    assert set(found) == {"one"} and len(problems) == 1


def test_a_folder_is_named_by_its_real_path(entry: dict[str, Any], folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert "no directory by its real path" in problem({**entry, "folder": str(link)})
    (folder / "inner").mkdir()
    assert "no directory by its real path" in problem({**entry, "folder": str(link / "inner")})


@pytest.mark.parametrize("inner", [True, False])
def test_of_two_folders_in_one_another_the_first_stays(entry: dict[str, Any], folder: Path, inner: bool) -> None:
    (folder / "inner").mkdir()
    entries = [entry, {**entry, "folder": str(folder / "inner")}][:: 1 if inner else -1]
    found, [problem] = declared({"one": entries[0], "two": entries[1]})
    assert set(found) == {"one"}
    assert "and that of one are in one another" in problem


def test_a_folder_beside_another_with_the_same_beginning_is_another(entry: dict[str, Any], folder: Path) -> None:
    (beside := folder.with_name("one2")).mkdir()
    found, problems = declared({"one": entry, "two": {**entry, "folder": str(beside)}})
    assert set(found) == {"one", "two"} and not problems


def test_the_servers_own_folders_are_in_no_project(entry: dict[str, Any], folder: Path) -> None:
    assert "own" in problem(entry, private=(folder / "data",))
    assert declared({"one": entry}, private=(folder.parent,))[1] == []


def test_a_folder_that_others_can_exchange_is_refused(entry: dict[str, Any], folder: Path) -> None:
    folder.parent.chmod(0o777)
    assert "can be changed by others" in problem(entry)
    folder.parent.chmod(0o1777)
    assert declared({"one": entry})[1] == []


def test_this_servers_own_folder_is_a_project_only_where_that_is_wanted(tmp_path: Path) -> None:
    local = local_project(tmp_path)
    entry = {"members": {"ann": "viewer"}, "permissions": "requester"}
    assert "PodmanProjects.local" in problem(entry, "local")
    found, problems = declared({"local": entry}, local=local)
    assert problems == []
    assert found["local"].project.root == tmp_path and found["local"].project.requester_decides
    assert found["local"].members == {"ann": Role.VIEWER}
    assert declared({}, local=local)[0]["local"].members == {}
    found, [sentence] = declared({"local": {**entry, "image": "x"}}, local=local)
    assert "it cannot have image" in sentence and not found


def test_a_project_in_this_servers_own_folder_would_be_open_to_its_members(entry: dict[str, Any], folder: Path) -> None:
    found, [sentence] = declared({"one": entry, "local": {}}, local=local_project(folder.parent))
    assert set(found) == {"local"} and "in one another" in sentence


# the file


def test_a_file_is_read(tmp_path: Path, entry: dict[str, Any]) -> None:
    (file := tmp_path / "p.json").write_text(json.dumps({"one": entry}))
    assert read(file) == {"one": entry}


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "Expecting"), ("[]", "must be an object"), ('{"a": {}, "a": {}}', "'a' is there twice"), ("\xff", "utf-8")],
)
def test_a_file_that_is_no_json_object_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    (file := tmp_path / "p.json").write_text(text, "latin-1")
    with pytest.raises(Wrong, match=said):
        read(file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_cannot_be_used(tmp_path: Path, mode: int) -> None:
    (file := tmp_path / "p.json").write_text("{}")
    file.chmod(mode)
    with pytest.raises(Wrong, match="can be changed by others"):
        read(file)


def test_a_file_in_a_folder_that_others_can_write_cannot_be_used(tmp_path: Path) -> None:
    (file := tmp_path / "p.json").write_text("{}")
    tmp_path.chmod(0o777)
    with pytest.raises(Wrong, match="can be changed by others"):
        read(file)


def test_a_file_that_is_not_there_or_no_file_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="cannot be read"):
        read(tmp_path / "none.json")
    with pytest.raises(Wrong):
        read(tmp_path)
