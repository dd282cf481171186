"""What pip, Jupyter and npm are told about this package agrees with what is there."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupyter_acp

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
NPM = json.loads((ROOT / "labextension" / "package.json").read_text("utf-8"))


def test_the_panel_and_the_package_have_one_version() -> None:
    assert NPM["version"] == jupyter_acp.__version__


def test_the_built_panel_is_where_the_package_and_jupyterlab_look_for_it() -> None:
    [entry] = jupyter_acp._jupyter_labextension_paths()
    built = ROOT / "labextension" / NPM["jupyterlab"]["outputDir"]
    assert built.resolve() == ROOT / "jupyter_acp" / entry["src"]
    assert entry["dest"] == NPM["name"]
    shared = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared["jupyter_acp/labextension"] == f"share/jupyter/labextensions/{NPM['name']}"


def test_the_lab_extension_says_which_package_uninstalls_it() -> None:
    install = json.loads((ROOT / "install.json").read_text("utf-8"))
    assert install["packageName"] == PYPROJECT["project"]["name"]


def test_installing_enables_the_server_extension() -> None:
    config = json.loads((ROOT / "jupyter-config" / "server-config" / "jupyter_acp.json").read_text("utf-8"))
    assert config["ServerApp"]["jpserver_extensions"] == {"jupyter_acp": True}
    [point] = jupyter_acp._jupyter_server_extension_points()
    assert point["app"].name == "jupyter_acp"


def test_importing_the_package_imports_neither_the_server_nor_ipython() -> None:
    code = (
        "import sys, jupyter_acp; print(sorted({'tornado', 'traitlets', 'IPython', 'ipywidgets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_pinned_versions_name_packages_only() -> None:
    lines = (ROOT / "requirements" / "test.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_the_code_structure_names_every_module() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    modules = {path.stem for path in (ROOT / "jupyter_acp").glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"`{name}`" not in contributing} == set()


def _code_structure() -> dict[str, int]:
    """The item of the list in CONTRIBUTING.md that has a module, or all of a folder, by dotted name."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Code structure")[1].split("\n## ")[0]
    places: dict[str, int] = {}
    for number, item in enumerate(section.split("\n- ")):
        for name in re.findall(r"`([\w/]+)`", item):
            places.setdefault(name.strip("/").replace("/", "."), number)
    return places


def _imported(path: Path) -> set[str]:
    """The modules of ours that one imports, dotted, from the package on."""
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("jupyter_acp.") for name in found if name.startswith("jupyter_acp.")}


def test_a_module_imports_only_from_its_own_item_of_the_code_structure_and_those_further_up() -> None:
    places = _code_structure()

    def place(name: str) -> int:
        parts = name.split(".")
        known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((places[one] for one in known if one in places), 0)

    modules = [path for path in (ROOT / "jupyter_acp").rglob("*.py") if path != ROOT / "jupyter_acp" / "__init__.py"]
    upwards = []
    for path in modules:
        name = ".".join(path.relative_to(ROOT / "jupyter_acp").with_suffix("").parts)
        upwards += [(name, other) for other in sorted(_imported(path)) if place(other) > place(name)]
    assert upwards == []
