"""`%%acp` in a notebook: the turn below its cell, a question answered while the kernel is busy."""

from __future__ import annotations

from collections.abc import Callable

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page, expect

from .conftest import Lab

CONNECTED = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return context?.isReady && context.session?.kernel?.connectionStatus === 'connected';
}"""


def test_a_question_in_a_cell_is_answered_while_the_kernel_is_busy(
    lab: Lab, open_page: Callable[[str], Page], shot: Callable[[str], None]
) -> None:
    cells = ["%load_ext jupyter_acp", "%%acp --agent demo\n/thought Hm\n/permission Write it\n/text **well** done"]
    notebook = new_notebook(
        cells=[new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, lab.root / "ask.ipynb")
    page = open_page("tree/ask.ipynb")
    page.wait_for_function(CONNECTED)
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    card = page.get_by_role("group", name="The agent asks")
    expect(card).to_contain_text("Write it")
    busy = page.locator('.jp-Notebook-ExecutionIndicator[data-status="busy"]')
    expect(busy).to_be_visible()
    shot("asked")
    card.get_by_role("button", name="Allow once").click()
    expect(page.locator(".jp-OutputArea-output strong", has_text="well").first).to_be_visible()
    expect(page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')).to_be_visible()
    shot("answered")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    saved = nbformat.read(lab.root / "ask.ipynb", as_version=4)
    [output] = [output for output in saved.cells[1].outputs if output.output_type == "display_data"]
    assert "permission: allow_once" in output.data["text/plain"]
    assert (lab.root / "ask.chat").exists()
