"""Where a section has the name, the arguments and the id of a call: what a template's `transform` says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
CONTENT = "content"
"""What a transform calls the section's own content."""


@dataclass(frozen=True, slots=True)
class CallShape:
    """Paths in a section's captures and its content: `("name",)` is a capture, `("content", "name")` a key."""

    name: tuple[str, ...]
    arguments: tuple[str, ...]
    id: tuple[str, ...] | None = None

    @property
    def name_key(self) -> str | None:
        """The content's key for a call's name; None where the opening delimiter captures it."""
        return _key(self.name)

    @property
    def argument_keys(self) -> tuple[str, ...]:
        """The content's keys for a call's arguments; none where the whole content is the arguments."""
        key = _key(self.arguments)
        if key is None:
            return ()
        # Models that were trained on several forms mix these two.
        return ("arguments", "parameters") if key in ("arguments", "parameters") else (key,)

    @property
    def id_key(self) -> str | None:
        return None if self.id is None else _key(self.id)

    @property
    def is_shallow(self) -> bool:
        """Whether no path goes deeper than a key of the content: only such calls can be read while they come."""
        return all(len(path) <= 2 for path in (self.name, self.arguments, self.id or ()))

    def calls_of(self, content: Any, captures: Mapping[str, str]) -> "list[tuple[str, Any, str | None]]":
        """Name, arguments and id of the calls in a content that is there as a whole: one, or a list of them.

        Raises:
            ValueError: it holds something else.
        """
        items = content if isinstance(content, list) and self.arguments != (CONTENT,) else [content]
        return [self._call_of(item, captures) for item in items]

    def _call_of(self, content: Any, captures: Mapping[str, str]) -> "tuple[str, Any, str | None]":
        scope = {**captures, CONTENT: content}
        name = _look_up(scope, self.name)
        call_id = None if self.id is None else _look_up(scope, self.id)
        key = self.arguments if not isinstance(content, dict) else self._arguments_in(content)
        arguments = _look_up(scope, key)
        if not isinstance(name, str):
            raise ValueError("a call has no name")
        return name, {} if arguments is None else arguments, call_id if isinstance(call_id, str) else None

    def _arguments_in(self, content: Mapping[str, Any]) -> tuple[str, ...]:
        keys = [key for key in self.argument_keys if key in content] if len(self.arguments) == 2 else []
        return (CONTENT, keys[0]) if keys else self.arguments


PLAIN = CallShape(name=(CONTENT, "name"), arguments=(CONTENT, "arguments"), id=(CONTENT, "id"))
"""The content is `{"name": …, "arguments": …}`."""


def call_shape(transform: Any, is_each: bool, captures: frozenset[str]) -> CallShape:
    """Read a transform: what a call is made of, in OpenAI's form, with placeholders.

    Args:
        transform: None where the content is a call as it is.
        is_each: it is applied to each item of a list, and names their keys.
        captures: what the delimiters capture.

    Raises:
        ValueError: it makes no calls, or of something unknown.
    """
    if transform is None:
        return PLAIN
    if not isinstance(transform, Mapping):
        raise ValueError("a transform of calls must be an object")
    function = transform.get("function", transform)
    if isinstance(function, str):
        base = _path(function, is_each, captures)
        return CallShape((*base, "name"), (*base, "arguments"), (*base, "id"))
    if not isinstance(function, Mapping):
        raise ValueError("a transform's function must be an object or a placeholder")
    name, arguments = (_path(function.get(key), is_each, captures) for key in ("name", "arguments"))
    call_id = transform.get("id", function.get("id"))
    return CallShape(name, arguments, None if call_id is None else _path(call_id, is_each, captures))


def _path(placeholder: Any, is_each: bool, captures: frozenset[str]) -> tuple[str, ...]:
    match = _PLACEHOLDER.fullmatch(placeholder) if isinstance(placeholder, str) else None
    if match is None:
        raise ValueError(f"a transform takes calls from placeholders such as {{content}}, not from {placeholder!r}")
    path = tuple(match[1].split("."))
    if path[0] in captures:
        return path
    if path[0] == CONTENT and not is_each:
        return path
    if is_each:
        return (CONTENT, *path)
    raise ValueError(f"a transform names {placeholder}, which is neither the content nor captured")


def _key(path: Sequence[str]) -> str | None:
    return path[1] if path[0] == CONTENT and len(path) == 2 else None


def _look_up(scope: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = scope
    for key in path:
        if not isinstance(value, Mapping):
            raise ValueError(f"a call has no {'.'.join(path)}")
        value = value.get(key)
    return value
