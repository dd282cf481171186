"""What a person does in the panel: ask, watch, decide, stop, queue, reload, choose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from .conftest import Chat, Lab

Shot = Callable[[str], None]


def test_a_turn_shows_thinking_plan_live_output_a_question_a_file_and_the_answer(
    chat: Chat, lab: Lab, shot: Shot
) -> None:
    (lab.root / "hello.py").unlink(missing_ok=True)
    chat.send("Have a look around")
    expect(chat.input).to_have_value("")
    expect(chat.active.locator(".jp-acp-said")).to_have_text("Have a look around")
    expect(chat.active.locator(".jp-acp-thought")).to_be_visible()
    expect(chat.active.locator(".jp-acp-plan li")).to_have_count(3)
    expect(chat.active.locator('.jp-acp-terminal[data-state="running"]')).to_contain_text("entries in")
    shot("command")
    chat.wait("requires_action")
    expect(chat.active.locator('.jp-acp-tool[data-kind="execute"]')).to_have_attribute("data-state", "completed")
    expect(chat.permission).to_contain_text("Write hello.py")
    expect(chat.permission.locator(".jp-acp-diff")).to_contain_text("def hello")
    shot("question")
    assert not (lab.root / "hello.py").exists()
    chat.permission.get_by_role("button", name="Allow once").click()
    expect(chat.permission).to_have_count(0)
    chat.wait("idle")
    turn = chat.ended.last
    expect(turn).to_contain_text("That was a whole turn. I wrote hello.py")
    expect(turn.locator(".jp-acp-worked")).to_contain_text("Worked for")
    shot("answer")
    turn.get_by_role("button", name="Show activity").click()
    expect(turn.locator(".jp-acp-plan li[data-state=completed]")).to_have_count(3)
    turn.locator(".jp-acp-file-link").last.click()
    expect(chat.page.locator(".jp-FileEditor .cm-content")).to_contain_text("def hello")
    assert (lab.root / "hello.py").exists()


def test_a_command_that_is_run_for_the_agent_says_so_and_shows_its_output_once(
    lab: Lab, open_page: Callable[[str], Page], shot: Shot
) -> None:
    path = "delegating.chat"
    lab.ask("POST", "api/acp/projects/local/sessions", {"path": path, "agent": "delegating"})
    chat = Chat(open_page(f"tree/{path}"), path)
    chat.wait("idle")
    again = {"type": "content", "content": {"type": "text", "text": f"{lab.root}\n\n[Exit code: 0]"}}
    done = {"sessionUpdate": "tool_call_update", "toolCallId": "mine", "status": "completed", "content": [again]}
    turn = chat.run(
        "/tool look id=own text=seen\n"
        '/tool run id=mine kind=execute status=in_progress \'input={"command":"pwd"}\'\n'
        # a directive takes \\n for a line break of its own
        "/terminal pwd\n/update " + json.dumps(done).replace("\\n", "\\u000a")
    )
    turn.get_by_role("button", name="Show activity").click()
    mine, own = (turn.locator(f'.jp-acp-tool[data-tool-call-id="{id}"]') for id in ("mine", "own"))
    expect(mine.locator(".jp-acp-tool-route")).to_have_text("by Jupyter")
    expect(mine.locator(".jp-acp-terminal-output")).to_contain_text(str(lab.root))
    expect(mine).to_have_attribute("data-state", "completed")
    expect(mine).not_to_contain_text("Exit code")
    expect(own.locator(".jp-acp-tool-route")).to_have_count(0)
    shot("delegated")


def test_a_question_is_answered_by_keys_that_mean_nothing_while_one_types(chat: Chat) -> None:
    asked = '/permission kind=execute input=\'{"command":"make\u202eclean","cwd":"/srv"}\' Run it'
    chat.send(asked)
    chat.wait("requires_action")
    expect(chat.permission.locator(".jp-acp-command")).to_have_text("makeU+202Eclean")
    expect(chat.permission).to_contain_text("/srv")
    chat.input.press("r")
    expect(chat.input).to_have_value("r")
    chat.permission.get_by_text("Run it").click()
    chat.page.keyboard.press("a")
    chat.wait("idle")
    expect(chat.ended.last).to_contain_text("permission: allow_once")
    chat.input.fill(asked)
    chat.input.press("Enter")
    chat.wait("requires_action")
    chat.permission.get_by_text("Run it").click()
    chat.page.keyboard.press("r")
    chat.wait("idle")
    expect(chat.ended.last).to_contain_text("permission: reject_once")


def test_stop_ends_the_turn_and_what_is_queued_runs(chat: Chat, shot: Shot) -> None:
    chat.send("/plan Count | Rest\n/shell sleep 600\n/text never said")
    expect(chat.active.locator('.jp-acp-tool[data-state="in_progress"]')).to_be_visible()
    expect(chat.view.get_by_role("button", name="Queue")).to_be_visible()
    chat.send("/text first")
    chat.send("/text second")
    expect(chat.queued).to_have_count(2)
    shot("queued")
    chat.view.get_by_role("button", name="Stop").click()
    expect(chat.ended).to_have_count(3)
    chat.wait("idle")
    expect(chat.ended.nth(0).locator(".jp-acp-turn-foot")).to_have_attribute("data-stop-reason", "cancelled")
    expect(chat.ended.nth(1)).to_contain_text("first")
    expect(chat.ended.nth(2)).to_contain_text("second")
    expect(chat.queued).to_have_count(0)
    expect(chat.view.get_by_role("button", name="Stop")).to_have_count(0)
    chat.ended.nth(0).get_by_role("button", name="Show activity").click()
    expect(chat.ended.nth(0).locator(".jp-acp-tool")).to_have_attribute("data-state", "cancelled")
    shot("stopped")


def test_the_end_is_followed_through_the_ends_of_turns_until_one_scrolls_away(chat: Chat) -> None:
    to_end = chat.view.get_by_title("To the end")
    last = chat.view.locator(".jp-acp-turn").last
    chat.send("/count delay=0.01 100\n/sleep 600")
    expect(chat.active).to_contain_text("100")
    chat.send("/markdown")
    chat.send("/text the last word")
    chat.view.get_by_role("button", name="Stop").click()
    expect(chat.ended).to_have_count(3)
    chat.wait("idle")
    expect(last.get_by_text("the last word", exact=True).last).to_be_in_viewport()
    expect(to_end).to_have_count(0)
    chat.view.locator(".jp-acp-conversation").hover()
    chat.page.mouse.wheel(0, -600)
    expect(to_end).to_be_visible()
    chat.run("/count 50")
    expect(to_end).to_be_visible()
    expect(last.locator(".jp-acp-turn-foot")).not_to_be_in_viewport()
    to_end.click()
    expect(last.locator(".jp-acp-turn-foot")).to_be_in_viewport()
    expect(to_end).to_have_count(0)


def test_a_stopped_turn_can_be_continued(chat: Chat, lab: Lab) -> None:
    (lab.root / "hello.py").write_text("")
    chat.send("/count 5\n/sleep 600")
    expect(chat.active).to_contain_text("5")
    chat.view.get_by_role("button", name="Stop").click()
    chat.wait("idle")
    expect(chat.ended.last).to_contain_text("Stopped after")
    chat.ended.last.get_by_role("button", name="Continue").click()
    expect(chat.active.locator(".jp-acp-said")).to_have_text("Continue")
    chat.view.get_by_role("button", name="Stop").click()
    chat.wait("idle")
    expect(chat.ended).to_have_count(2)


def test_a_reload_finds_draft_queue_running_turn_and_question(chat: Chat, shot: Shot) -> None:
    chat.run("/text before")
    chat.send("/thought Hm\n/count 3\n/permission Do it\n/count from=4 3")
    chat.wait("requires_action")
    chat.send("/text next")
    expect(chat.queued).to_have_count(1)
    chat.input.fill("a draft of\ntwo lines")
    chat.page.reload()
    chat.wait("requires_action")
    expect(chat.input).to_have_value("a draft of\ntwo lines")
    expect(chat.queued.locator(".jp-acp-queued-text")).to_have_text("/text next")
    expect(chat.active.locator(".jp-acp-thought")).to_be_visible()
    expect(chat.active.locator(".jp-acp-text")).to_have_text(re.compile(r"1\s*2\s*3\s*"))
    expect(chat.view.locator('.jp-acp-message[data-role="agent"]').first).to_contain_text("before")
    expect(chat.permission).to_have_count(1)
    shot("reloaded")
    chat.permission.get_by_role("button", name="Allow once").click()
    expect(chat.ended).to_have_count(2)
    expect(chat.ended.nth(0).locator(".jp-acp-text").last).to_have_text(
        re.compile(r"permission: allow_once\s*4\s*5\s*6")
    )
    expect(chat.ended.nth(1)).to_contain_text("next")
    chat.page.reload()
    chat.wait("idle")
    expect(chat.view.locator('.jp-acp-message[data-role="agent"]')).to_have_count(3)
    expect(chat.input).to_have_value("a draft of\ntwo lines")


def test_what_is_queued_can_be_edited_withdrawn_and_sent_now(chat: Chat, shot: Shot) -> None:
    chat.send("/sleep 600")
    chat.wait("running")
    for word in ("one", "two", "three"):
        chat.send(f"/text {word}")
    expect(chat.queued).to_have_count(3)
    chat.queued.nth(0).get_by_role("button", name="Edit").click()
    chat.queued.nth(0).get_by_role("textbox").fill("/text changed")
    shot("editing")
    chat.queued.nth(0).get_by_role("button", name="Save").click()
    expect(chat.queued.nth(0).locator(".jp-acp-queued-text")).to_have_text("/text changed")
    chat.queued.nth(1).get_by_role("button", name="Cancel").click()
    expect(chat.queued).to_have_count(2)
    chat.queued.nth(1).get_by_role("button", name="Send now").click()
    expect(chat.ended).to_have_count(3)
    expect(chat.ended.locator(".jp-acp-said")).to_have_text(["/sleep 600", "/text three", "/text changed"])


def test_options_are_chosen_and_show_what_the_agent_says(chat: Chat, shot: Shot) -> None:
    def picker(id: str):  # type: ignore[no-untyped-def]
        return chat.view.locator(f'.jp-acp-picker[data-option-id="{id}"]')

    picker("mode").get_by_role("button").click()
    shot("open")
    picker("mode").get_by_role("option", name="Auto").get_by_role("button").click()
    expect(picker("mode")).to_have_attribute("data-value", "auto")
    picker("fast").get_by_role("button").click()
    picker("fast").get_by_role("option", name="on").get_by_role("button").click()
    expect(picker("fast")).to_have_attribute("data-value", "true")
    # the agent changes its mode by itself
    chat.run("/mode plan")
    expect(picker("mode")).to_have_attribute("data-value", "plan")


def test_access_is_chosen_and_shown_as_it_is_in_force(chat: Chat, lab: Lab, shot: Shot) -> None:
    picker = chat.view.locator('.jp-acp-picker[data-option-id="access"]')

    def choose(name: str) -> None:
        picker.get_by_role("button").first.click()
        picker.get_by_role("option", name=name).get_by_role("button").click()

    chat.run("/text hello")
    choose("Read only")
    expect(picker).to_have_attribute("data-value", "read-only")
    expect(chat.run("/shell echo x > kept-out")).to_be_visible()
    assert not (lab.root / "kept-out").exists()
    chat.send("/text on\n/sleep 600")
    expect(chat.active).to_contain_text("on")
    choose("Full")
    expect(picker).to_contain_text("Read only → Full")
    shot("asked")
    chat.view.get_by_role("button", name="Stop").click()
    chat.wait("idle")
    chat.run("/shell echo x > let-in")
    expect(picker).to_have_attribute("data-value", "full-access")
    expect(picker).not_to_contain_text("→")
    assert (lab.root / "let-in").exists()
    shot("full")


def test_the_agent_is_chosen_before_the_first_message_and_kept_afterwards(chat: Chat, shot: Shot) -> None:
    picker = chat.view.locator('.jp-acp-picker[data-option-id="agent"]')
    picker.get_by_role("button").click()
    absent = picker.get_by_role("option", name="Absent agent").get_by_role("button")
    expect(absent).to_be_disabled()
    shot("agents")
    picker.get_by_role("option", name="Other agent").get_by_role("button").click()
    expect(picker).to_have_attribute("data-value", "other")
    chat.wait("idle")
    turn = chat.run("/text hello")
    expect(turn.locator(".jp-acp-sender").last).to_have_text("Other agent")
    expect(picker.get_by_role("button")).to_be_disabled()


def test_a_form_is_filled_in_and_an_address_is_shown_before_it_is_opened(chat: Chat, shot: Shot) -> None:
    chat.send("/elicit form\n/elicit url")
    chat.wait("requires_action")
    form = chat.permission.locator("form")
    form.get_by_label("Title").fill("Sales")
    form.get_by_label("Pages").fill("3")
    form.get_by_label("Format").select_option("pdf")
    shot("form")
    form.locator('[type="submit"]').click()
    expect(chat.permission.get_by_role("link")).to_have_attribute("href", "https://example.org/login")
    chat.permission.get_by_role("button").last.click()
    chat.wait("idle")
    answer = {"figures": True, "format": "pdf", "pages": 3, "title": "Sales"}
    expect(chat.ended.last).to_contain_text(f"elicitation: accept {json.dumps(answer)}")
    expect(chat.ended.last).to_contain_text(re.compile("elicitation: (decline|cancel)"))


def test_discarded_activity_is_gone_for_good_and_said_to_be_and_the_conversation_stays(chat: Chat, shot: Shot) -> None:
    def show(where: Locator) -> None:
        where.get_by_role("button", name="Show activity").click()

    def discard(button: str) -> None:
        chat.view.get_by_label("More").click()
        chat.view.get_by_role("button", name="Discard activity").click()
        dialog = chat.page.locator(".jp-Dialog", has_text="The conversation stays")
        dialog.get_by_role("button", name=button).click()
        expect(dialog).to_have_count(0)

    gone = "The details of this turn are not kept any more."
    details = chat.view.locator(".jp-acp-thought, .jp-acp-plan")
    answers = chat.view.locator('.jp-acp-message[data-role="agent"]')
    chat.run("/thought hidden\n/plan Look\n/text the first answer")
    chat.run("/thought hidden\n/text the second answer")
    show(chat.ended.first)
    expect(details).to_have_count(2)
    discard("Cancel")
    show(chat.ended.last)
    expect(details).to_have_count(3)
    shot("before")
    discard("Discard")
    expect(details).to_have_count(0)
    expect(chat.ended.filter(has_text=gone)).to_have_count(2)
    expect(answers.first).to_contain_text("the first answer")
    shot("discarded")
    chat.run("/thought kept\n/text the third answer")
    chat.page.reload()
    chat.wait("idle")
    expect(chat.view.locator(".jp-acp-said")).to_have_count(3)
    for answer, text in zip(answers.all(), ("first", "second", "third"), strict=True):
        expect(answer).to_contain_text(f"the {text} answer")
        show(answer)
    expect(answers.filter(has_text=gone)).to_have_count(2)
    expect(answers.last.locator(".jp-acp-thought")).to_have_count(1)
    shot("reloaded")
    # what a person looks at goes from before their eyes
    discard("Discard")
    expect(details).to_have_count(0)
    expect(answers.filter(has_text=gone)).to_have_count(3)
    expect(answers.last).to_contain_text("the third answer")


def test_own_messages_are_edited_and_deleted_and_answers_get_reactions(chat: Chat, lab: Lab) -> None:
    def written() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads((lab.root / chat.path).read_text())["messages"]
        return found

    chat.run("/text one")
    turn = chat.run("/text two")
    turn.get_by_role("button", name="Good").click()
    expect(turn.get_by_role("button", name="Good")).to_have_attribute("aria-pressed", "true")
    mine = chat.view.locator('.jp-acp-message[data-role="user"]')
    mine.nth(1).hover()
    mine.nth(1).get_by_role("button", name="Edit").click()
    mine.nth(1).get_by_role("textbox").fill("what I meant")
    mine.nth(1).get_by_role("button", name="Save").click()
    expect(mine.nth(1).locator(".jp-acp-said")).to_have_text("what I meant")
    mine.nth(0).hover()
    mine.nth(0).get_by_role("button", name="Delete").click()
    expect(mine).to_have_count(1)
    chat.page.reload()
    chat.wait("idle")
    expect(mine.locator(".jp-acp-said")).to_have_text("what I meant")
    expect(mine).to_contain_text("(edited)")
    good = chat.view.get_by_role("button", name="Good")
    expect(good.last).to_have_attribute("aria-pressed", "true")
    good.last.click()
    expect(good.last).to_have_attribute("aria-pressed", "false")


def test_an_agent_that_dies_is_told_with_its_last_words_and_the_next_request_is_answered(
    chat: Chat, shot: Shot
) -> None:
    turn = chat.run("/text I go\n/exit 3")
    expect(turn.get_by_role("alert")).to_be_visible()
    expect(chat.run("/text I am back").locator(".jp-acp-text")).to_have_text("I am back")
    shot("dead")


def test_earlier_prompts_and_commands_are_offered_while_one_types(chat: Chat, shot: Shot) -> None:
    chat.run("/text one")
    chat.run("/text two")
    chat.input.press("ArrowUp")
    expect(chat.input).to_have_value("/text two")
    chat.input.press("ArrowUp")
    expect(chat.input).to_have_value("/text one")
    chat.input.press("ArrowDown")
    chat.input.press("ArrowDown")
    expect(chat.input).to_have_value("")
    chat.input.type("/pl")
    expect(chat.view.get_by_role("listbox", name="Commands").get_by_role("option")).to_have_count(1)
    shot("commands")
    chat.input.press("Tab")
    expect(chat.input).to_have_value("/plan ")
    chat.input.fill("one line")
    chat.input.press("Shift+Enter")
    expect(chat.input).to_have_value("one line\n")


def test_the_newest_messages_come_first_and_older_ones_on_demand(
    lab: Lab, open_page: Callable[[str], Page], shot: Shot
) -> None:
    messages = [
        {"id": f"m{n}", "type": "msg", "body": f"message {n}", "time": 1000 + n, "sender": "ada", "raw_time": False}
        for n in range(120)
    ]
    users = {"ada": {"username": "ada", "name": "Ada", "display_name": "Ada"}}
    (lab.root / "long.chat").write_text(json.dumps({"messages": messages, "users": users, "attachments": {}}))
    chat = Chat(open_page("tree/long.chat"), "long.chat")
    chat.wait("idle")
    said = chat.view.locator(".jp-acp-said")
    expect(said).to_have_count(50)
    expect(said.last).to_be_in_viewport()
    said.first.scroll_into_view_if_needed()
    before = said.first.bounding_box()
    assert before is not None
    chat.view.get_by_role("button", name="Load 50 earlier messages").click()
    expect(said).to_have_count(100)
    after = said.nth(50).bounding_box()
    assert after is not None and abs(after["y"] - before["y"]) < 80
    chat.view.get_by_role("button", name="Load 50 earlier messages").click()
    expect(said).to_have_count(120)
    expect(chat.view.get_by_role("button", name="Load 50 earlier messages")).to_have_count(0)
    chat.view.get_by_title("To the end").click()
    expect(said.last).to_be_in_viewport()
    shot("end")


def test_a_long_output_shows_its_tail_and_all_of_it_on_demand(chat: Chat) -> None:
    turn = chat.run("/shell seq 1 3000")
    turn.get_by_role("button", name="Show activity").click()
    terminal = turn.locator(".jp-acp-terminal")
    expect(terminal).to_contain_text("2999\n3000")
    expect(terminal).not_to_contain_text("\n1000\n")
    terminal.get_by_role("button", name="Show all").click()
    expect(terminal).to_contain_text("\n1000\n")
    expect(terminal).to_contain_text("exit status 0")


def test_a_file_that_is_attached_or_pasted_is_kept_in_the_project_and_named_in_the_prompt(
    chat: Chat, lab: Lab, shot: Shot
) -> None:
    chat.input.fill("/text Look at this")
    files = chat.view.locator('input[type="file"]')
    files.set_input_files({"name": "plot.png", "mimeType": "image/png", "buffer": b"\x89PNG"})
    expect(chat.input).to_have_value(re.compile(r"^/text Look at this @\.acp/uploads/\w+-plot\.png $"))
    chat.input.evaluate(
        """node => {
            const data = new DataTransfer();
            data.items.add(new File(['a,b'], 'data.csv', { type: 'text/csv' }));
            node.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(chat.input).to_have_value(re.compile(r"-plot\.png @\.acp/uploads/\w+-data\.csv $"))
    shot("attached")
    chat.input.press("Enter")
    chat.wait("idle")
    expect(chat.ended.last).to_contain_text("Look at this")
    shot("sent")
    kept = sorted(file.name.split("-", 1)[1] for file in (lab.root / ".acp" / "uploads").iterdir())
    assert kept == ["data.csv", "plot.png"]


def test_a_new_chat_comes_from_the_launcher_and_is_listed_with_what_it_waits_for(
    lab: Lab, open_page: Callable[[str], Page], shot: Shot
) -> None:
    page = open_page()
    page.locator(".jp-LauncherCard", has_text="ACP chat").click()
    chat = Chat(page, "untitled.chat")
    chat.wait("idle")
    chat.send("/title A question of taste\n/permission Blue?")
    chat.wait("requires_action")
    page.locator('.lm-TabBar-tab[data-id="jupyter-acp-chats"]').click()
    listed = page.locator(".jp-acp-list-item", has_text="A question of taste")
    expect(listed).to_have_attribute("data-state", "requires_action")
    shot("listed")
    chat.permission.get_by_role("button", name="No").click()
    chat.wait("idle")
    expect(listed).to_have_attribute("data-state", "idle")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".jp-acp-chat")).to_have_count(2)


def test_beside_jupyterlab_chat_the_panel_is_offered_under_open_with(
    lab: Lab, open_page: Callable[[str], Page], shot: Shot
) -> None:
    (lab.root / "both.chat").write_text("")
    lab.prefer_panel(False)
    try:
        page = open_page()
        file = page.locator(".jp-DirListing-item", has_text="both.chat")
        file.click(button="right")
        page.locator(".lm-Menu-item", has_text="Open With").hover()
        shot("menu")
        page.locator(".lm-Menu-item", has_text="ACP chat").click()
        Chat(page, "both.chat").wait("idle")
        page.get_by_role("tab", name="both.chat").locator(".lm-TabBar-tabCloseIcon").click()
        file.dblclick()
        expect(page.locator(".jp-chat-input-container, .jp-chat-input").first).to_be_visible()
        assert page.locator(".jp-acp-chat").count() == 0
    finally:
        lab.prefer_panel(True)
