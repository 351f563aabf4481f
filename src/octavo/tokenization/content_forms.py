"""Finding out in which form a chat template takes content and arguments: it is asked with a trial conversation."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from octavo.config import ContentFormat
from octavo.tokenization.conversation import ContentForm

Render = Callable[[Sequence[dict[str, Any]]], str]

_PROBE = "739152806461"
"""A text that survives upper case and quoting, and that no template has of itself."""
_DUMPED_PART = re.compile(rf"""text['"]\s*:\s*['"]{_PROBE}""")
_DUMPED_ARGUMENTS = re.compile(rf"'key': '{_PROBE}'")
_FIXED: dict[str, frozenset[ContentForm]] = {"string": frozenset(("text",)), "openai": frozenset(("parts",))}


class ContentForms:
    """What one template takes, found out once for each role.

    Args:
        render: makes a prompt of messages; it may fail in any way.
        content_format: `string` and `openai` settle the form of content; `auto` has it found out.
    """

    def __init__(self, render: Render, content_format: ContentFormat) -> None:
        self._render = render
        self.takes_mapping = cache(self._takes_mapping)
        fixed = _FIXED.get(content_format)
        self.of_content = cache(self._content_forms if fixed is None else lambda _: fixed)

    def _content_forms(self, role: str) -> frozenset[ContentForm]:
        """Those in which the template shows a message's text, and shows it as text."""
        forms: tuple[ContentForm, ...] = ("text", "parts")
        if taken := frozenset(form for form in forms if self._shows(role, form)):
            return taken
        if self._shows(role, "part"):
            return frozenset(("part",))
        return frozenset(("text",)) if role == "user" else self.of_content("user")

    def _shows(self, role: str, form: ContentForm) -> bool:
        texts = [_PROBE, _PROBE[::-1]] if form == "parts" else [_PROBE]
        content = _PROBE if form == "text" else [_part(text) for text in texts]
        prompt = self._try(self._around({"role": role, "content": content}))
        return prompt is not None and all(text in prompt for text in texts) and not _DUMPED_PART.search(prompt)

    def _takes_mapping(self) -> bool:
        """A template that shows a mapping as Python writes it, or fails on one, may be written for JSON text."""
        as_mapping = self._try(self._with_call({"key": _PROBE}))
        if as_mapping is not None and not _DUMPED_ARGUMENTS.search(as_mapping):
            return True
        as_text = self._try(self._with_call(f'{{"key": "{_PROBE}"}}'))
        return as_text is None or _PROBE not in as_text

    def _around(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """A conversation that has this message where templates expect one of its role."""
        match message["role"]:
            case "user":
                return [message]
            case "system" | "developer":
                return [message, self._user()]
            case "assistant":
                return [self._user(), message, self._user()]
            case "tool" | "function" | "ipython":
                return [*self._with_call({}), {"tool_call_id": "call00000", "name": "probe", **message}]
            case _:
                return [self._user(), message]

    def _with_call(self, arguments: object) -> list[dict[str, Any]]:
        call = {"id": "call00000", "type": "function", "function": {"name": "probe", "arguments": arguments}}
        return [self._user(), {"role": "assistant", "content": self._plain("assistant", ""), "tool_calls": [call]}]

    def _user(self) -> dict[str, Any]:
        return {"role": "user", "content": self._plain("user", "Hi")}

    def _plain(self, role: str, text: str) -> Any:
        return text if "text" in self.of_content(role) else [_part(text)]

    def _try(self, messages: Sequence[dict[str, Any]]) -> str | None:
        try:
            return self._render(messages)
        except Exception:  # a template may fail in any way that code can
            return None


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
