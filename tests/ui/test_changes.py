"""What a turn has changed, as a person looks at it in the panel, and undoes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Route, expect

from .conftest import Chat, Lab

Shot = Callable[[str], None]


def lines(table: Locator) -> list[tuple[str, ...]]:
    """What kind each line of a diff is, its two numbers, and its text."""
    found: list[list[str]] = table.locator("tr").evaluate_all(
        "rows => rows.map(row => [row.dataset.type, ...[...row.cells].map(cell => cell.textContent)])"
    )
    return [(kind, before, after, text) for kind, before, after, _, text in found]


def file(changes: Locator, path: str) -> Locator:
    return changes.locator(f'.jp-acp-diff[data-path="{path}"]')


def open_changes(where: Locator) -> Locator:
    """Unfold what was changed."""
    where.locator(".jp-acp-show-changes").click()
    changes = where.get_by_role("region", name="Changed files")
    expect(changes.get_by_role("listitem").first).to_be_visible()
    return changes


def look(chat: Chat) -> None:
    """Have what was written so far looked at: this agent may be quicker than the look at the beginning of its turn."""
    chat.run("/text Ready")


def dialog(chat: Chat, says: str, button: str) -> None:
    asked = chat.page.locator(".jp-Dialog", has_text=says)
    asked.get_by_role("button", name=button).click()
    expect(asked).to_have_count(0)


def test_what_a_turn_changed_is_counted_at_its_end_and_after_a_reload_and_shown_by_file(
    chat: Chat, lab: Lab, shot: Shot
) -> None:
    before = [f"line {n}" for n in range(1, 41)]
    (lab.root / "changed.txt").write_text("\n".join(before))
    (lab.root / "changed-gone.txt").write_text("one\n")
    (lab.root / "changed-old.txt").write_text("\n".join(before))
    look(chat)
    work = (
        "/shell sed -i 's/line 2$/LINE 2/; 30d' changed.txt; rm changed-gone.txt; "
        "mv changed-old.txt changed-name.txt; printf '\\0\\1' > changed.bin\n/file changed-new.txt text\n/text Done"
    )
    turn = chat.run(work)
    link = turn.locator(".jp-acp-show-changes")
    expect(link).to_have_text("5 files changed +2 −3")
    expect(link).to_have_attribute("aria-expanded", "false")
    chat.page.reload()
    chat.wait("idle")
    answer = chat.view.locator('.jp-acp-message[data-role="agent"]').last
    expect(answer.locator(".jp-acp-show-changes")).to_have_text("5 files changed +2 −3")
    changes = open_changes(answer)
    expect(answer.locator(".jp-acp-show-changes")).to_have_attribute("aria-expanded", "true")
    shot("open")
    told = changes.locator(".jp-acp-diff").evaluate_all(
        "all => all.map(one => [one.dataset.path, one.dataset.change, one.dataset.state])"
    )
    assert told == [
        ["changed-gone.txt", "deleted", "applied"],
        ["changed-name.txt", "renamed", "applied"],
        ["changed-new.txt", "added", "applied"],
        ["changed.bin", "added", "applied"],
        ["changed.txt", "modified", "applied"],
    ]
    expect(file(changes, "changed-name.txt")).to_contain_text("renamed from changed-old.txt")
    expect(file(changes, "changed.bin")).to_contain_text("binary")
    table = changes.get_by_role("table", name="Changes of changed.txt")
    assert [line for line in lines(table) if line[0] != "same"] == [
        ("removed", "2", "", "line 2"),
        ("added", "", "2", "LINE 2"),
        ("gap", "⋯", "", "line 26"),
        ("removed", "30", "", "line 30"),
    ]
    fold = changes.get_by_role("button", name="Changes of changed.txt")
    fold.click()
    expect(table).to_have_count(0)


def test_a_path_opens_the_file_at_the_first_line_that_was_changed(chat: Chat, lab: Lab) -> None:
    (lab.root / "changed-place.txt").write_text("".join(f"line {n}\n" for n in range(1, 41)))
    look(chat)
    changes = open_changes(chat.run("/shell sed -i 's/line 20/LINE 20/; 30d' changed-place.txt"))
    file(changes, "changed-place.txt").locator(".jp-acp-file-link").click()
    expect(chat.page.locator(".jp-FileEditor .cm-content")).to_contain_text("LINE 20")
    expect(chat.page.get_by_role("button", name="Ln 20, Col 1")).to_be_visible()


def test_files_are_reverted_on_disk_and_one_that_was_changed_since_says_why_not(
    chat: Chat, lab: Lab, shot: Shot
) -> None:
    def read(name: str) -> str | None:
        place = lab.root / name
        return place.read_text() if place.exists() else None

    (lab.root / "changed-a.txt").write_text("before\n")
    (lab.root / "changed-b.txt").write_text("before\n")
    look(chat)
    turn = chat.run(
        "/file changed-a.txt agent\n/file changed-b.txt agent\n/file changed-c.txt agent\n/file changed-d.txt agent"
    )
    changes = open_changes(turn)
    changes.get_by_role("button", name="Revert changed-c.txt").click()
    dialog(chat, "changed-c.txt is deleted", "Cancel")
    assert read("changed-c.txt") is not None
    changes.get_by_role("button", name="Revert changed-c.txt").click()
    shot("asked")
    dialog(chat, "changed-c.txt is deleted", "Revert")
    expect(file(changes, "changed-c.txt")).to_have_attribute("data-state", "reverted")
    assert (read("changed-a.txt"), read("changed-c.txt")) != ("before\n", None)
    assert read("changed-c.txt") is None
    # what the panel shows is of before a person has changed this one
    (lab.root / "changed-b.txt").write_text("a person's\n")
    changes.get_by_role("button", name="Revert all").click()
    dialog(chat, "changed-b.txt is as before", "Revert")
    expect(chat.view.locator(".jp-acp-refusal")).to_contain_text("changed-b.txt: changed since")
    expect(file(changes, "changed-b.txt")).to_have_attribute("data-state", "changed")
    shot("refused")
    assert read("changed-a.txt") != "before\n"
    expect(changes.get_by_role("button", name="Revert changed-b.txt")).to_have_count(0)
    changes.get_by_role("button", name="Revert all").click()
    dialog(chat, "changed-a.txt is as before", "Revert")
    expect(changes.locator('.jp-acp-diff[data-state="reverted"]')).to_have_count(3)
    assert (read("changed-a.txt"), read("changed-b.txt")) == ("before\n", "a person's\n")
    expect(changes.get_by_role("button", name="Revert all")).to_have_count(0)
    shot("reverted")


def test_a_notebook_is_shown_by_cell_and_as_text_on_demand(chat: Chat, lab: Lab, shot: Shot) -> None:
    def cell(id: str, source: str, *outputs: Any) -> dict[str, Any]:
        about = {"cell_type": "code", "id": id, "metadata": {}, "execution_count": None}
        return {**about, "outputs": list(outputs), "source": source}

    def book(*cells: Any) -> str:
        return json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)

    printed = {"output_type": "stream", "name": "stdout", "text": "3\n"}
    (lab.root / "changed.ipynb").write_text(book(cell("a", "x = 1\ny = 2"), cell("b", "x + y")))
    (lab.root / "next.json").write_text(book(cell("a", "x = 1\ny = 3"), cell("b", "x + y", printed), cell("c", "z")))
    look(chat)
    turn = chat.run("/shell cp next.json changed.ipynb")
    changes = open_changes(turn)
    cells = file(changes, "changed.ipynb").locator(".jp-acp-cell")
    expect(cells.locator(".jp-acp-cell-head")).to_have_text(["Cell 1 code", "Cell 2 code", "Cell 3, new code"])
    source = changes.get_by_role("table", name="Source of Cell 1")
    assert lines(source) == [
        ("same", "1", "1", "x = 1"),
        ("removed", "2", "", "y = 2"),
        ("added", "", "2", "y = 3"),
    ]
    assert lines(changes.get_by_role("table", name="Outputs of Cell 2")) == [("added", "", "1", "3")]
    shot("cells")
    changes.get_by_role("button", name="Show raw text").click()
    expect(changes.get_by_role("table", name="Changes of changed.ipynb")).to_contain_text("y = 3")
    expect(cells).to_have_count(0)
    changes.get_by_role("button", name="Show cells").click()
    expect(cells).to_have_count(3)


def test_a_long_diff_is_folded_and_drawn_in_part_and_stays_where_it_is_opened(chat: Chat, lab: Lab, shot: Shot) -> None:
    turn = chat.run("/shell seq 1 3000 > changed-long.txt; seq 1 5 > changed-short.txt")
    changes = open_changes(turn)
    fold = changes.get_by_role("button", name="Changes of changed-long.txt")
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(turn.locator(".jp-acp-turn-foot")).to_be_in_viewport()
    fold.click()
    table = changes.get_by_role("table", name="Changes of changed-long.txt")
    expect(table.locator("tr")).to_have_count(1000)
    expect(table.locator("tr").first).to_be_in_viewport()
    shot("unfolded")
    changes.get_by_role("button", name="Show all 3000 lines").click()
    expect(table.locator("tr")).to_have_count(3000)
    # the head stays in sight, so that a long diff is folded from anywhere
    table.locator("tr").nth(2000).scroll_into_view_if_needed()
    expect(fold).to_be_in_viewport()
    shot("inside")
    fold.click()
    expect(table).to_have_count(0)


def test_what_the_running_turn_has_changed_so_far_can_be_seen_and_its_details_go_with_its_activity(
    chat: Chat, lab: Lab, shot: Shot
) -> None:
    chat.send("/file changed-now.txt text\n/text on\n/sleep 600")
    expect(chat.active).to_contain_text("on")
    changes = open_changes(chat.active)
    expect(file(changes, "changed-now.txt")).to_contain_text("text")
    expect(changes.get_by_role("button", name="Revert changed-now.txt")).to_have_count(0)
    shot("running")
    chat.view.get_by_role("button", name="Stop").click()
    chat.wait("idle")
    turn = chat.ended.last
    changes = open_changes(turn)
    expect(changes.get_by_role("button", name="Revert changed-now.txt")).to_be_visible()
    chat.view.get_by_label("More").click()
    chat.view.get_by_role("button", name="Discard activity").click()
    dialog(chat, "The conversation stays", "Discard")
    expect(changes).to_contain_text("The details of this turn are not kept any more.")


def test_what_is_shared_too_large_shortened_or_not_known_is_said(chat: Chat, shot: Shot) -> None:
    def odd(route: Route) -> None:
        told = route.fetch().json()
        one, two = told["files"]
        told["incomplete"] = "there are more than 20,000 files"
        one.update(shared=True, truncated=True)
        two.update(large=True, diff="", added=0, removed=0)
        route.fulfill(json=told)

    turn = chat.run("/file changed-shared.txt text\n/file changed-toolarge.txt text")
    chat.page.route("**/diff*", odd)
    changes = open_changes(turn)
    expect(changes).to_contain_text("Not all changes are known: there are more than 20,000 files.")
    shared = file(changes, "changed-shared.txt")
    expect(shared).to_contain_text("shared: others may have changed it too")
    expect(shared).to_contain_text("The rest is left out.")
    expect(file(changes, "changed-toolarge.txt")).to_contain_text("too large to show")
    expect(changes.get_by_role("button", name="Revert changed-toolarge.txt")).to_have_count(0)
    shot("said")
    shared.get_by_role("button", name="Revert").click()
    dialog(chat, "Others may have changed changed-shared.txt at the same time", "Cancel")
    chat.page.unroute("**/diff*")
    chat.page.route("**/diff*", lambda route: route.fulfill(status=503, json={"message": "busy", "reason": "x"}))
    turn.locator(".jp-acp-show-changes").click()
    turn.locator(".jp-acp-show-changes").click()
    expect(changes).to_contain_text("busy")
    chat.page.unroute("**/diff*")
    changes.get_by_role("button", name="Try again").click()
    expect(changes.get_by_role("listitem")).to_have_count(2)


def test_in_a_narrow_panel_in_the_dark_nothing_is_cut_off(chat: Chat, lab: Lab, shot: Shot) -> None:
    def theme(name: str) -> None:
        chat.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", f"JupyterLab {name}"
        )

    name = "a_rather_long_name_of_a_file_in_a_deep_folder_of_the_project.py"
    (lab.root / "narrow").mkdir()
    (lab.root / "narrow" / name).write_text("def f():\n" + "".join(f"    x{n} = {n}\n" for n in range(20)))
    look(chat)
    turn = chat.run(
        f"/shell cd narrow; sed -i 's/x2 = 2/y = \"{'long ' * 30}\"/; s/x15/x16/' {name}; mv {name} other_{name}; "
        "printf '\\0' > image.bin"
    )
    theme("Dark")
    try:
        chat.view.evaluate("node => { node.style.width = '350px'; }")
        changes = open_changes(turn)
        expect(file(changes, f"narrow/other_{name}").locator("table")).to_be_visible()
        conversation = chat.view.locator(".jp-acp-conversation")
        assert conversation.evaluate("node => [node.scrollWidth - node.clientWidth, node.scrollLeft]") == [0, 0]
        right = conversation.evaluate("node => node.getBoundingClientRect().right")
        buttons = turn.get_by_role("button").all()
        assert len(buttons) >= 8
        for button in buttons:
            box = button.bounding_box()
            assert box is not None and box["x"] + box["width"] <= right
        shot("narrow")
    finally:
        theme("Light")
