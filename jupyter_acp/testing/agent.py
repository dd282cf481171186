"""The methods of ACP version 1, on the agent's side. Prompts run on threads; all else on the reader's.

https://agentclientprotocol.com/protocol/overview
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import demo
from .faults import REGISTRY
from .script import prompt_text
from .sessions import Session, Sessions, Settings, config_options, options
from .turn import Cancelled, Turn
from .wire import AUTH_REQUIRED, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, JsonObject, RpcError, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What is settled at the start; see docs/reference/scripted-agent.md."""

    options: str = "config"
    load: bool = True
    resume: bool = True
    fail_load: bool = False
    auth_required: bool = False
    wrong_mode: bool = False
    deaf: bool = False
    update_before_new: bool = False
    echo_user: bool = False
    slow_start: float = 0.0
    ignore_eof: bool = False


class ScriptedAgent:
    """One agent process."""

    def __init__(self, wire: Wire, sessions: Sessions, behaviour: Behaviour) -> None:
        self._wire = wire
        self._sessions = sessions
        self._behaviour = behaviour
        self._capabilities: JsonObject = {}
        self._turns: dict[str, Turn] = {}
        self._authenticated = not behaviour.auth_required
        self._methods: dict[str, Callable[[JsonObject], JsonObject]] = {
            "initialize": self._initialize,
            "authenticate": self._authenticate,
            "session/new": self._new,
            "session/load": self._load,
            "session/resume": self._resume,
            "session/list": lambda params: {"sessions": self._sessions.list()},
            "session/close": self._close,
            "session/set_mode": lambda params: self._set(params, "mode", params.get("modeId")),
            "session/set_model": lambda params: self._set(params, "model", params.get("modelId")),
            "session/set_config_option": lambda params: self._set(params, params.get("configId"), params.get("value")),
        }

    def serve(self) -> None:
        """Answer the client until it closes the pipe."""
        for line in self._wire.lines():
            try:
                message = json.loads(line)
            except ValueError:
                self._wire.send({"id": None, "error": {"code": -32700, "message": "Parse error"}})
                continue
            if "method" in message:
                self._received(message)
            else:
                self._wire.answered(message)
        while self._behaviour.ignore_eof:
            time.sleep(3600)
        for turn in list(self._turns.values()):
            turn.cancel()

    def _received(self, message: JsonObject) -> None:
        method, id, params = message["method"], message.get("id"), message.get("params") or {}
        try:
            if method == "session/prompt":
                self._prompt(id, params)
            elif method == "session/cancel":
                turn = self._turns.get(params["sessionId"])
                if turn is not None:
                    turn.cancel()
            elif id is not None:
                if method not in self._methods:
                    raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
                result, after = self._answer(method, params)
                self._wire.send({"id": id, "result": result})
                for update in after:
                    self._wire.notify("session/update", {"sessionId": result["sessionId"], "update": update})
        except RpcError as error:
            self._wire.send({"id": id, "error": {"code": error.code, "message": error.message}})
        except (KeyError, TypeError) as error:
            self._wire.send({"id": id, "error": {"code": INVALID_PARAMS, "message": f"Invalid params: {error}"}})

    def _answer(self, method: str, params: JsonObject) -> tuple[JsonObject, list[JsonObject]]:
        result = self._methods[method](params)
        announced = [demo.commands(REGISTRY.directives.values())] if method == "session/new" else []
        return result, announced

    def _initialize(self, params: JsonObject) -> JsonObject:
        time.sleep(self._behaviour.slow_start)
        self._capabilities = params.get("clientCapabilities") or {}
        session: JsonObject = {"list": {}, "close": {}}
        if self._behaviour.resume:
            session["resume"] = {}
        return {
            "protocolVersion": 1,
            "agentInfo": {"name": "scripted-agent", "title": "Demo agent", "version": "1"},
            "agentCapabilities": {
                "loadSession": self._behaviour.load,
                "promptCapabilities": {"image": True, "audio": False, "embeddedContext": True},
                "sessionCapabilities": session,
            },
            "authMethods": [{"id": "demo-login", "name": "Log in", "description": "Any answer will do"}],
        }

    def _authenticate(self, params: JsonObject) -> JsonObject:
        if params["methodId"] != "demo-login":
            raise RpcError(INVALID_PARAMS, f"no login {params['methodId']!r}")
        self._authenticated = True
        return {}

    def _new(self, params: JsonObject) -> JsonObject:
        if not self._authenticated:
            raise RpcError(AUTH_REQUIRED, "Authentication required")
        session = self._sessions.new(params["cwd"])
        if self._behaviour.update_before_new:
            early: JsonObject = {"sessionUpdate": "usage_update", "used": 0, "size": 200_000}
            self._wire.notify("session/update", {"sessionId": session.id, "update": early})
        return {"sessionId": session.id, **self._options(session)}

    def _load(self, params: JsonObject) -> JsonObject:
        if not self._behaviour.load:
            raise RpcError(METHOD_NOT_FOUND, "Method not found: session/load")
        session = self._recall(params)
        for update in session.history:
            self._wire.notify("session/update", {"sessionId": session.id, "update": update})
        return self._options(session)

    def _resume(self, params: JsonObject) -> JsonObject:
        if not self._behaviour.resume:
            raise RpcError(METHOD_NOT_FOUND, "Method not found: session/resume")
        return self._options(self._recall(params))

    def _recall(self, params: JsonObject) -> Session:
        if self._behaviour.fail_load:
            raise RpcError(INTERNAL_ERROR, "the session's file is damaged")
        session = self._sessions.recall(params["sessionId"], params["cwd"])
        if self._behaviour.wrong_mode:
            session.set("mode", "plan")
        return session

    def _close(self, params: JsonObject) -> JsonObject:
        turn = self._turns.get(params["sessionId"])
        if turn is not None:
            turn.cancel()
        self._sessions.close(params["sessionId"])
        return {}

    def _set(self, params: JsonObject, option: Any, value: Any) -> JsonObject:
        session = self._sessions.get(params["sessionId"])
        if not self._behaviour.deaf:
            session.set(str(option), value)
        return {"configOptions": self._config_options(session)} if self._behaviour.options == "config" else {}

    def _options(self, session: Session) -> JsonObject:
        return options(session, self._behaviour.options, booleans=self._booleans)

    def _config_options(self, session: Session) -> list[JsonObject]:
        return config_options(session, booleans=self._booleans)

    @property
    def _booleans(self) -> bool:
        """Options of type boolean only go to a client that advertises them."""
        asked = (self._capabilities.get("session") or {}).get("configOptions") or {}
        return asked.get("boolean") is not None

    def _prompt(self, id: Any, params: JsonObject) -> None:
        session = self._sessions.get(params["sessionId"])
        if session.id in self._turns:
            raise RpcError(INTERNAL_ERROR, "A turn is already running")
        turn = Turn(self._wire, session, params["prompt"], Settings(self._behaviour.options, self._booleans))
        self._turns[session.id] = turn
        threading.Thread(target=self._run, args=(id, turn), name=f"turn-{session.id}", daemon=True).start()

    def _run(self, id: Any, turn: Turn) -> None:
        asked: list[JsonObject] = [{"sessionUpdate": "user_message_chunk", "content": block} for block in turn.prompt]
        turn.session.add(asked)
        answer: JsonObject
        try:
            if self._behaviour.echo_user:
                for update in asked:
                    turn.update(update, keep=False)
            self._carry_out(turn)
            answer = {"result": {"stopReason": turn.stop_reason}}
        except Cancelled:
            answer = {"result": {"stopReason": "cancelled"}}
        except RpcError as error:
            answer = {"error": {"code": error.code, "message": error.message}}
        except BrokenPipeError:
            return  # the client has gone; the reader will see it too
        except (ValueError, OSError) as error:
            answer = {"error": {"code": INTERNAL_ERROR, "message": str(error)}}
        turn.session.add(turn.done)
        if turn.stop_reason is None:
            return
        del self._turns[turn.session.id]
        self._wire.send({"id": id, **answer})
        for delay, update in turn.late:
            time.sleep(delay)
            self._wire.notify("session/update", {"sessionId": turn.session.id, "update": update})

    def _carry_out(self, turn: Turn) -> None:
        text = prompt_text(turn.prompt)
        script = REGISTRY.parse(text)
        for directive, arguments in script:
            directive.run(turn, arguments)
        if not script:
            if text.strip().lower() == "help":
                turn.text(demo.listing(REGISTRY.directives.values()))
            else:
                demo.run(turn)
            turn.update(demo.usage(turn), keep=False)


def leave() -> None:
    """End the process at once: turns that still run are on daemon threads and may be blocked in a write."""
    os._exit(0)
