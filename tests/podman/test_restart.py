"""The coordinator is killed in mid-turn, with agents of every placement: nothing is lost, nothing is there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from .host import AGENTS, Host, all_agents, run, write

COUNT = 60
#: each agent counts, runs a command that tells that it was run, and counts on
PROMPT = "/count {count} delay={delay}\n{command}\n/count {count} delay=0.02 from={next}"


@pytest.mark.parametrize("when", ["before-its-command", "during-its-command", "after-its-command"])
async def test_a_turn_goes_on_whenever_the_coordinator_dies(host: Host, when: str) -> None:
    chats = await all_agents(host.person("ann", "alpha"), when)
    root = Path(host.projects.declared["alpha"]["folder"])
    # time enough for each of them to begin before the first of them is done with it
    delay = 0.05 if when == "before-its-command" else 0.02
    wait = f"until [ -e {when}-go ]; do sleep 0.05; done"
    for agent, chat in chats.items():
        command = run(agent, f"echo begun; echo x >> {when}-{agent}; {wait}; echo through")
        await chat.submit(PROMPT.format(count=COUNT, delay=delay, next=COUNT + 1, command=command), "long")
    if when == "after-its-command":
        write(root, f"{when}-go", "")
    for chat in chats.values():
        if when == "before-its-command":
            await chat.until_kind("message_delta")
        elif when == "during-its-command":
            await chat.until_kind("terminal_output")
        else:
            await chat.until(
                lambda event: event["kind"] == "message_delta" and f"{COUNT + 2}\n" in event["data"]["text"]
            )
    host.kill()
    write(root, f"{when}-go", "")
    await host.hang_up()
    await host.start()
    ann = host.person("ann", "alpha")
    for agent, chat in chats.items():
        chat.drive = ann
        ended = (await chat.until_kind("turn_ended", id="long"))["data"]
        assert ended["stop_reason"] == "end_turn", (agent, ended)
        counted = [word for word in chat.text("long").split("\n") if word.isdigit()]
        assert counted == [str(number) for number in range(1, 2 * COUNT + 1)], agent
        assert (root / f"{when}-{agent}").read_text() == "x\n", agent
        assert len(chat.of("turn_ended", "long")) == 1
        assert chat.of("agent_exited") == [], agent
        printed = "".join(data["data"] for data in chat.of("terminal_output", "long"))
        # a command that we run for an agent ends with us; its own goes on
        cut = agent == "delegating" and when == "during-its-command"
        assert printed.split() == (["begun"] if cut else ["begun", "through"]), agent
        body = (await chat.call("GET", "messages"))["messages"][-1]["body"]
        assert [word for word in body.split("\n") if word.isdigit()] == counted, agent
        assert (await chat.run("/text next", "next"))["stop_reason"] == "end_turn"
    assert len(chats) == len(AGENTS)
