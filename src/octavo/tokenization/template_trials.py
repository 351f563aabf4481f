"""Finding out what a chat template takes, and in which form: it is asked with trial conversations."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

from octavo.config import ContentFormat
from octavo.tokenization.conversation import REASONING_KEYS, Message

Render = Callable[[Sequence[Message], Mapping[str, Any]], str]
ContentForm = Literal["text", "parts", "part"]
"""`part` is a list of which only the first part is shown."""

_PROBE = "739152806461"
"""A text that survives upper case and quoting, and that no template has of itself."""
_OTHER_PROBE = _PROBE[::-1]
_DUMPED_PART = re.compile(rf"""text['"]\s*:\s*['"]{_PROBE}""")
_DUMPED_ARGUMENTS = re.compile(rf"'key': '{_PROBE}'")
_FIXED: dict[str, frozenset[ContentForm]] = {"string": frozenset(("text",)), "openai": frozenset(("parts",))}
_MADE_UP_ROLE = "stranger"
_ID = "call00000"
_LONG_ID = "call_00000000000000000000"
_PARAMETERS = {
    "type": "object",
    "properties": {"key": {"type": "string", "description": "A key."}},
    "required": ["key"],
}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template is given an assistant's calls of tools."""

    as_mapping: bool
    """Arguments are a mapping; else they are JSON text."""
    without_content: bool
    """It shows calls only where the turn's content is None."""


class TemplateTrials:
    """What one template takes, found out when it is first asked.

    Args:
        render: makes a prompt of messages and further variables; it may fail in any way.
        content_format: `string` and `openai` settle the form of content; `auto` has it found out.
    """

    def __init__(self, render: Render, content_format: ContentFormat) -> None:
        self._render = render
        self._fixed = _FIXED.get(content_format)
        self.of_content = cache(self._of_content)
        self.shows_role = cache(self._shows_role)
        self.knows_role = cache(self._knows_role)
        self.shows_late_role = cache(self._shows_late_role)
        self._shown_forms = cache(self._find_shown_forms)

    def _of_content(self, role: str) -> frozenset[ContentForm]:
        """The forms in which it takes content in this role's messages; one at least."""
        if self._fixed is not None:
            return self._fixed
        if taken := self._shown_forms(role):
            return taken
        return frozenset(("text",)) if role == "user" else self.of_content("user")

    def _shows_role(self, role: str) -> bool:
        """Whether it shows what messages of this role say."""
        return bool(self._shown_forms(role))

    def _knows_role(self, role: str) -> bool:
        """Whether it shows them otherwise than those of a role that nobody has heard of, by its bare name."""
        if not self.shows_role(role):
            return False
        message = {"role": role, "content": self._plain(role, "Hi")}
        renamed = [each | {"role": _MADE_UP_ROLE} if each["role"] == role else each for each in self._around(message)]
        strange = self._try(renamed)
        return strange is None or strange.replace(_MADE_UP_ROLE, role) != self._try(self._around(message))

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the variable `tools` has a place in it."""
        return _PROBE in (self._try([self._user()], {"tools": [_tool(_PROBE)]}) or "")

    @cached_property
    def shows_tools_of_system(self) -> bool:
        """Whether tools have a place as a field of the system message, as in Phi-4-mini's template: a JSON text."""
        told = {"role": "system", "content": self._plain("system", "Hi"), "tools": _PROBE}
        return self._shows([told, self._user()], _PROBE)

    @cached_property
    def shows_two_systems(self) -> bool:
        """Whether it shows a second system message behind the first one."""
        systems = [{"role": "system", "content": self._plain("system", text)} for text in (_PROBE, _OTHER_PROBE)]
        return self._shows([*systems, self._user()], _PROBE, _OTHER_PROBE)

    def _shows_late_role(self, role: str) -> bool:
        """Whether it shows messages of this role in the midst of a conversation, too."""
        said = {"role": "assistant", "content": self._plain("assistant", "Hi")}
        late = {"role": role, "content": self._plain(role, _PROBE)}
        return self._shows([self._user(), said, late, self._user()], _PROBE)

    @cached_property
    def takes_two_users(self) -> bool:
        """Whether a user may speak right behind a user."""
        return self._try([self._user(), self._user()]) is not None

    @cached_property
    def takes_user_behind_tool(self) -> bool:
        """Whether a user may speak right behind a tool's answer."""
        return self._try([*self._called(_PROBE), self._user()]) is not None

    @cached_property
    def call_form(self) -> CallForm | None:
        """How it is given calls; None where it shows none.

        A template that shows a mapping as Python writes it, or fails on one, is written for JSON text.
        """
        for without_content, as_mapping in itertools.product((False, True), (True, False)):
            arguments = {"key": _PROBE} if as_mapping else f'{{"key": "{_PROBE}"}}'
            content = None if without_content else self._plain("assistant", "")
            turns = [self._user(), _calls(content, arguments)]
            # Some templates show a call only where it is answered, and some show no answers.
            for prompt in (self._try([*turns, _answer(_ID, "Hi")]), self._try(turns)):
                if prompt is not None and _PROBE in prompt and not _DUMPED_ARGUMENTS.search(prompt):
                    return CallForm(as_mapping, without_content)
        return None

    @cached_property
    def shows_calls_beside_text(self) -> bool:
        return self._shows(self._called(_PROBE, content="Hi"), _PROBE)

    @cached_property
    def takes_reasoning_beside_both(self) -> bool:
        """Whether a turn may have reasoning, text and calls at once."""
        return self._shows(self._called(_PROBE, content="Hi", reasoning="Hm"), _PROBE)

    @cached_property
    def shows_several_calls(self) -> bool:
        """Whether all calls of one turn are shown."""
        return self._shows(self._called(_PROBE, _OTHER_PROBE), _PROBE, _OTHER_PROBE)

    @cached_property
    def takes_any_id(self) -> bool:
        """Whether a call's id may be other than nine letters and digits."""
        return self._shows(self._called(_PROBE, call_id=_LONG_ID), _PROBE)

    def _find_shown_forms(self, role: str) -> frozenset[ContentForm]:
        """Those in which it shows a message's text, and shows it as text."""
        forms: tuple[ContentForm, ...] = ("text", "parts")
        if taken := frozenset(form for form in forms if self._shows_form(role, form)):
            return taken
        return frozenset(("part",)) if self._shows_form(role, "part") else frozenset()

    def _shows_form(self, role: str, form: ContentForm) -> bool:
        texts = [_PROBE, _OTHER_PROBE] if form == "parts" else [_PROBE]
        content = _PROBE if form == "text" else [_part(text) for text in texts]
        prompt = self._try(self._around({"role": role, "content": content}))
        return prompt is not None and all(text in prompt for text in texts) and not _DUMPED_PART.search(prompt)

    def _around(self, message: Message) -> list[Message]:
        """A conversation that has this message where templates expect one of its role."""
        match message["role"]:
            case "user":
                return [message]
            case "system" | "developer":
                return [message, self._user()]
            case "assistant":
                return [self._user(), message, self._user()]
            case "tool" | "ipython":
                said = {"role": "assistant", "content": self._plain("assistant", "Hi")}
                before = said if self.call_form is None else self._with_calls(self.call_form, ["value"])
                return [self._user(), before, {"tool_call_id": _ID, "name": "probe", **message}]
            case _:
                return [self._user(), message]

    def _called(self, *values: str, content: str = "", reasoning: str = "", call_id: str = _ID) -> list[Message]:
        """A conversation with a call for each value of an argument, answered where the template shows answers."""
        if self.call_form is None:
            return [self._user()]
        turn = self._with_calls(self.call_form, values, content, call_id)
        thought = dict.fromkeys(REASONING_KEYS, reasoning) if reasoning else {}
        answers = [_answer(call_id, self._plain("tool", "Hi")) for _ in values] if self.shows_role("tool") else []
        return [self._user(), turn | thought, *answers]

    def _with_calls(self, form: CallForm, values: Sequence[str], content: str = "", call_id: str = _ID) -> Message:
        arguments = [{"key": value} if form.as_mapping else f'{{"key": "{value}"}}' for value in values]
        is_bare = form.without_content and not content
        return _calls(None if is_bare else self._plain("assistant", content), *arguments, call_id=call_id)

    def _user(self) -> Message:
        return {"role": "user", "content": self._plain("user", "Hi")}

    def _plain(self, role: str, text: str) -> Any:
        return text if "text" in self.of_content(role) else [_part(text)]

    def _shows(self, messages: Sequence[Message], *texts: str) -> bool:
        prompt = self._try(messages)
        return prompt is not None and all(text in prompt for text in texts)

    @cached_property
    def _always(self) -> Mapping[str, Any]:
        """Variables without which it fails, as some do that are for conversations with tools alone."""
        with_tools = {"tools": [_tool("probe")]}
        said = [{"role": "user", "content": content} for content in ("Hi", [_part("Hi")])]
        tried = (self._try([each], variables) for variables in ({}, with_tools) for each in said)
        works = [prompt is not None for prompt in tried]
        return with_tools if any(works) and not any(works[: len(said)]) else {}

    def _try(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str | None:
        try:
            return self._render(messages, self._always if variables is None else variables)
        except Exception:  # a template may fail in any way that code can
            return None


def _calls(content: Any, *arguments: object, call_id: str = _ID) -> Message:
    functions = [{"name": "probe", "arguments": each} for each in arguments]
    calls = [{"id": call_id, "type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _answer(call_id: str, content: Any) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "name": "probe", "content": content}


def _tool(name: str) -> Message:
    function = {"name": name, "description": "Probes.", "parameters": _PARAMETERS}
    return {"type": "function", "function": function}


def _part(text: str) -> Message:
    return {"type": "text", "text": text}
