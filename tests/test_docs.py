"""The reference pages say what the code does."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from openapi_spec_validator import validate

from jupyter_acp.agentspec import AgentSpec
from jupyter_acp.app import AcpExtension
from jupyter_acp.events import Kind
from jupyter_acp.handlers import ROUTES, project_side_routes
from jupyter_acp.projects import declarations
from jupyter_acp.projects.base import ProjectDirectory, Role
from jupyter_acp.projects.podman import PodmanProjects

DOCS = Path(__file__).parents[1] / "docs" / "reference"
HOW_TO = DOCS.with_name("how-to")
METHODS = {"get", "post", "patch", "put", "delete"}


def _template(pattern: str) -> str:
    return "/" if pattern == "/?" else re.sub(r"\(\?P<(\w+)>\[\^/\]\+\)", r"{\1}", pattern)


def test_the_openapi_document_is_valid() -> None:
    validate(yaml.safe_load((DOCS / "openapi.yaml").read_text("utf-8")))


def test_the_openapi_document_has_exactly_the_routes_and_methods_of_the_url_table() -> None:
    document = yaml.safe_load((DOCS / "openapi.yaml").read_text("utf-8"))
    written = {(path, method) for path, item in document["paths"].items() for method in METHODS & set(item)}
    served = {
        (_template(pattern), method)
        for pattern, handler in ROUTES + project_side_routes()
        for method in METHODS
        if method in vars(handler)
    }
    assert written == served


@pytest.mark.parametrize("kind", list(Kind))
def test_every_event_kind_is_on_the_events_page(kind: Kind) -> None:
    assert f"| `{kind}` |" in (DOCS / "events.md").read_text("utf-8")


def test_the_events_page_names_no_kind_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "events.md").read_text("utf-8"), re.M)
    assert set(rows) == {str(kind) for kind in Kind}


def test_the_configuration_page_has_exactly_the_traits_of_the_extension() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8").split("## Agents")[0]
    ours = set(AcpExtension.class_own_traits(config=True)) & set(vars(AcpExtension))
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == ours


def test_the_configuration_page_has_every_field_of_an_agent() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8").split("## Agents")[1]
    for field in dataclasses.fields(AgentSpec):
        assert field.name == "id" or f"`{field.name}`" in page


def test_the_projects_page_has_every_field_of_an_entry_and_every_trait() -> None:
    fields, rest = (DOCS / "projects-file.md").read_text("utf-8").split("## Configuration")
    named = {name for row in re.findall(r"^\| (`[^|]+) \|", fields, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert named == declarations.FIELDS
    traits = set(PodmanProjects.class_own_traits(config=True)) & set(vars(PodmanProjects))
    assert set(re.findall(r"^\| `(\w+)` \|", rest, re.M)) == traits


def test_the_example_of_the_projects_page_can_be_used(tmp_path: Path) -> None:
    [block] = re.findall(r"```json\n(.*?)```", (DOCS / "projects-file.md").read_text("utf-8"), re.S)
    found, problems = declarations.declared(json.loads(block.replace("/srv/projects/alpha", str(tmp_path))))
    assert not problems and found["alpha"].project.container


def test_the_own_directory_of_the_guide_is_one(tmp_path: Path) -> None:
    _, code = re.findall(r"```python\n(.*?)```", (HOW_TO / "own-project-directory.md").read_text("utf-8"), re.S)
    exec(code, names := {})
    (tmp_path / "alpha").mkdir()
    directory: ProjectDirectory = names["TeamProjects"](tmp_path)
    [alpha] = directory.projects()
    assert (alpha.id, alpha.root) == ("alpha", tmp_path / "alpha")
    assert directory.role(alpha, alpha.root.owner()) is Role.OWNER and directory.role(alpha, "nobody else") is None


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = [
        (page.name, link)
        for page in DOCS.parent.rglob("*.md")
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []
