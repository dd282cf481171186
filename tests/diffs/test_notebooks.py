"""Notebooks by cell, through nbdime."""

from __future__ import annotations

import copy

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from jupyter_acp.diffs.notebooks import cells


def notebook() -> nbformat.NotebookNode:
    first = new_code_cell("x = 1\ny = 2", id="first", outputs=[new_output("stream", text="1\n")], execution_count=1)
    return new_notebook(cells=[first, new_markdown_cell("some words", id="words"), new_code_cell("last", id="last")])


async def test_source_and_outputs_are_told_apart_by_cell() -> None:
    before = notebook()
    after = copy.deepcopy(before)
    after.cells[0].source = "x = 1\ny = 3"
    after.cells.insert(1, new_code_cell("new", id="new"))
    del after.cells[3]
    after.cells[2].source = "other words"
    after.cells[0].execution_count = 2
    (told,) = await cells([(nbformat.writes(before), nbformat.writes(after))])
    assert told == [
        {
            "change": "modified",
            "index": 0,
            "cell_type": "code",
            "id": "first",
            "source": "@@ -1,2 +1,2 @@\n x = 1\n-y = 2\n+y = 3\n",
        },
        {"change": "added", "index": 1, "cell_type": "code", "id": "new", "source": "+new\n"},
        {
            "change": "modified",
            "index": 2,
            "cell_type": "markdown",
            "id": "words",
            "source": "@@ -1 +1 @@\n-some words\n+other words\n",
        },
        {"change": "removed", "index": 2, "cell_type": "code", "id": "last", "source": "-last\n"},
    ]


async def test_a_run_changes_outputs_and_not_the_source() -> None:
    before = notebook()
    after = copy.deepcopy(before)
    after.cells[0].outputs = [
        new_output("display_data", data={"image/png": "AAAA", "text/plain": "<Figure>"}),
        new_output("error", ename="ValueError", evalue="no", traceback=[]),
    ]
    after.cells[2].execution_count = 7
    (told,) = await cells([(nbformat.writes(before), nbformat.writes(after))])
    assert told is not None
    assert [(cell["id"], cell.get("source")) for cell in told] == [("first", None)]
    assert told[0]["outputs"] == "@@ -1 +1,3 @@\n-1\n+<Figure>\n+[image/png, 4 characters]\n+ValueError: no\n"


async def test_new_and_removed_notebooks_are_all_their_cells() -> None:
    text = nbformat.writes(notebook())
    new, gone = await cells([(None, text), (text, None)])
    assert new is not None and gone is not None
    assert [cell["change"] for cell in new] == ["added"] * 3
    assert [cell["change"] for cell in gone] == ["removed"] * 3
    assert gone[0]["outputs"] == "-1\n"


async def test_what_is_no_notebook_is_compared_as_text_by_others() -> None:
    good = nbformat.writes(notebook())
    assert await cells([("{}", good), (good, "not json"), (good, good)]) == [None, None, []]
