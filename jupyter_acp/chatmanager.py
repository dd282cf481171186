"""Going through jupyterlab-chat where it has a chat open: it is the writer then, we never write behind it.

Nothing of jupyterlab-chat is imported before one of its models is at hand. Works with both of its back ends.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from .chatdocument import ChatDocument, Pending
from .events import JsonObject


def find(manager: Any, chat_id: str, path: str) -> Any:
    """The model of a chat that is open at `path`, or None."""
    if manager is None:
        return None
    model = manager.get(chat_id)
    if model is not None and model.get_path() == path:
        return model
    # a copy has the id of its original until somebody renames it, so the path decides; jupyterlab-chat publishes
    # this very dict as settings["chats_by_id"]
    models = getattr(manager, "_chats_by_id", {})
    return next((model for model in models.values() if model.get_path() == path), None)


def read(model: Any) -> ChatDocument:
    """What jupyterlab-chat has in memory."""
    # through text: the model goes on changing its own objects
    text = json.dumps(model.to_dict()) if hasattr(model, "to_dict") else model.get()
    return ChatDocument.of(json.loads(text))


def write(model: Any, document: ChatDocument, theirs: ChatDocument, pending: Pending) -> None:
    """Give the model every message it lacks and every change in `pending`; its file and its clients follow."""
    from jupyterlab_chat.models import NewMessage, User

    for name in document.users:
        if name in pending.users or name not in theirs.users:
            user = {key: value for key, value in document.users[name].items() if key in User.__dataclass_fields__}
            model.set_user(User(**user))  # type: ignore[no-untyped-call]  # jupyterlab-chat's own
    if document.metadata.get("acp") != theirs.metadata.get("acp"):
        model.set_metadata("acp", document.metadata["acp"])
    if document.id != model.get_id():
        model.set_metadata("id", document.id)
    for entry in document.entries:
        message = entry.message
        if theirs.get(message["id"]) is None:
            new = NewMessage(body=message["body"], sender=message["sender"])
            # the hook runs before the message is stored: id and time stay the ones that the log knows
            model.add_message(new, trigger_actions=[_Dress(message)])
        elif message["id"] in pending.messages:
            old = model.get_message(message["id"])
            model.update_message(replace(old, **_known(old, message)))
    if hasattr(model, "save"):
        # users and metadata alone do not make it write
        model.save()


class _Dress:
    """Gives a message that jupyterlab-chat is about to store the fields of ours."""

    def __init__(self, message: JsonObject) -> None:
        self._message = message

    def __call__(self, message: Any, _model: Any) -> None:
        for name, value in _known(message, self._message).items():
            setattr(message, name, value)


def _known(target: Any, message: JsonObject) -> JsonObject:
    return {name: value for name, value in message.items() if name in target.__dataclass_fields__}
