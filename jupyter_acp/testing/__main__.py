"""`python -m jupyter_acp.testing`: the switches of the scripted agent."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from .agent import Behaviour, ScriptedAgent, leave
from .replay import replay
from .sessions import GENERATIONS, Sessions, default_directory
from .wire import Wire


def parser() -> argparse.ArgumentParser:
    """The switches; the reference page names each."""
    found = argparse.ArgumentParser(prog="python -m jupyter_acp.testing", description="A scripted ACP agent on stdio")
    add = found.add_argument
    add("--options", choices=GENERATIONS, default="config", help="the generation of options that it speaks")
    add("--no-load", action="store_true", help="cannot session/load")
    add("--no-resume", action="store_true", help="cannot session/resume")
    add("--fail-load", action="store_true", help="load and resume end in an error")
    add("--wrong-mode", action="store_true", help="load and resume change the mode to plan")
    add("--deaf", action="store_true", help="says yes to a new option value and keeps the old")
    add("--auth-required", action="store_true", help="session/new needs authenticate first")
    add("--update-before-new", action="store_true", help="an update of the session before its session/new answer")
    add("--echo-user", action="store_true", help="echoes each prompt as user_message_chunk")
    add("--slow-start", type=float, default=0.0, metavar="S", help="seconds until initialize is answered")
    add("--ignore-eof", action="store_true", help="stays when the client closes the pipe")
    add("--exit-at-start", type=int, metavar="CODE", help="says why on stderr and exits")
    add("--state", type=Path, metavar="DIR", help="where sessions are kept; else $JUPYTER_ACP_TEST_STATE")
    add("--replay", type=Path, metavar="FILE", help="give these recorded lines instead")
    add("--replay-delay", type=float, default=0.0, metavar="S", help="seconds between recorded lines")
    return found


def main() -> None:
    """Serve one client on stdin and stdout. $JUPYTER_ACP_TEST_ARGS is read as further switches."""
    args = parser().parse_args(sys.argv[1:] + shlex.split(os.environ.get("JUPYTER_ACP_TEST_ARGS", "")))
    if args.exit_at_start is not None:
        print("the scripted agent was told to exit at its start", file=sys.stderr)
        sys.exit(args.exit_at_start)
    wire = Wire()
    try:
        if args.replay is not None:
            replay(wire, args.replay, args.replay_delay)
        else:
            behaviour = Behaviour(
                options=args.options,
                load=not args.no_load,
                resume=not args.no_resume,
                fail_load=args.fail_load,
                wrong_mode=args.wrong_mode,
                deaf=args.deaf,
                auth_required=args.auth_required,
                update_before_new=args.update_before_new,
                echo_user=args.echo_user,
                slow_start=args.slow_start,
                ignore_eof=args.ignore_eof,
            )
            ScriptedAgent(wire, Sessions(args.state or default_directory()), behaviour).serve()
    except BrokenPipeError:
        pass  # the client went away while it was told something
    leave()


if __name__ == "__main__":
    main()
