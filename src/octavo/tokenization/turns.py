"""Turns of a conversation, rewritten for the chat template at hand: what it does not show is said where it does."""

from collections.abc import Iterable, Sequence
from typing import Any

from octavo.tokenization.call_turns import fitted_calls
from octavo.tokenization.conversation import ROLES_WITHOUT_TEXT, Message, joined, text_of
from octavo.tokenization.template_trials import TemplateTrials
from octavo.tokenization.tool_text import calls_as_text, response_as_text, tools_as_text

_SYSTEM_ROLES = ("system", "developer")


def fitted_turns(
    messages: Sequence[Message], tools: list[Message], trials: TemplateTrials
) -> tuple[list[Message], list[Message]]:
    """The turns of a conversation as a template shows them, and tools that it shows.

    Args:
        messages: as `checked_messages` makes them, with arguments as the template takes them.
        tools: where it has no place for them, the turns tell of them.
    """
    turns = list(messages)
    tells_tools = bool(tools) and not trials.shows_tools
    if tells_tools:
        turns, tools = _with_told_tools(turns, tools_as_text(tools)), []
    turns = _with_known_systems(turns, trials)
    if any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
        turns = _with_tool_turns(turns, trials, tells_tools)
    return [_with_formed_content(turn, trials) for turn in turns], tools


def _with_tool_turns(turns: list[Message], trials: TemplateTrials, tells_tools: bool) -> list[Message]:
    """Calls and answers as text where the template shows none, and where the model is told to write calls as text."""
    as_text = tells_tools or trials.call_form is None
    turns = [_with_calls_as_text(turn) for turn in turns] if as_text else fitted_calls(turns, trials)
    if trials.shows_role("tool") and (not as_text or trials.shows_tools):
        return turns
    writes_any_role = trials.shows_role("tool") and not trials.knows_role("tool")
    return _with_responses_as_text(turns, "tool" if writes_any_role else "user")


def _with_told_tools(turns: list[Message], told: str) -> list[Message]:
    """Tools behind what the system says."""
    first = turns[0]
    if first["role"] not in _SYSTEM_ROLES:
        return [{"role": "system", "content": told}, *turns]
    return [first | {"content": joined(text_of(first), told)}, *turns[1:]]


def _with_known_systems(turns: list[Message], trials: TemplateTrials) -> list[Message]:
    """Developers speak as the system where the template knows none; the system speaks once where it shows but the first
    message, and through the user where it shows none."""
    if any(turn["role"] == "developer" for turn in turns) and not trials.knows_role("developer"):
        turns = [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in turns]
    num_systems = next((index for index, turn in enumerate(turns) if turn["role"] not in _SYSTEM_ROLES), len(turns))
    if not num_systems:
        return turns
    if not trials.shows_role(turns[0]["role"]) and trials.shows_role("user"):
        num_merged = num_systems + (turns[num_systems:] != [] and turns[num_systems]["role"] == "user")
        return _with_merged(turns, num_merged, "user")
    if num_systems > 1 and not trials.shows_two_systems:
        return _with_merged(turns, num_systems, turns[0]["role"])
    return turns


def _with_merged(turns: list[Message], num_merged: int, role: str) -> list[Message]:
    """The first turns as one."""
    told = "\n\n".join(filter(None, map(text_of, turns[:num_merged])))
    return [{"role": role, "content": told}, *turns[num_merged:]]


def _with_calls_as_text(turn: Message) -> Message:
    if "tool_calls" not in turn:
        return turn
    said = {key: value for key, value in turn.items() if key != "tool_calls"}
    return said | {"content": joined(text_of(turn), calls_as_text(turn["tool_calls"]), "\n")}


def _with_responses_as_text(turns: Iterable[Message], role: str) -> list[Message]:
    """The answers of tools that follow each other are one turn, and a user who goes on speaks in the same."""
    written: list[Message] = []
    goes_on = False
    for turn in turns:
        is_response = turn["role"] == "tool"
        said = response_as_text(text_of(turn)) if is_response else text_of(turn)
        if goes_on and (is_response or turn["role"] == role):
            written[-1] = {"role": role, "content": joined(written[-1]["content"], said, "\n")}
        else:
            written.append({"role": role, "content": said} if is_response else turn)
        goes_on = is_response
    return written


def _with_formed_content(turn: Message, trials: TemplateTrials) -> Message:
    """Content in the form that it was given in, if the template takes it.

    Where a turn may lack content, an empty text is no part; elsewhere it is one, for templates that take the first.
    """
    content, role = turn["content"], turn["role"]
    forms = trials.of_content(role)
    formed: Any
    if not content and "tool_calls" in turn and trials.call_form is not None and trials.call_form.without_content:
        formed = None
    elif isinstance(content, str):
        is_nothing = role in ROLES_WITHOUT_TEXT and not content
        formed = content if "text" in forms else [] if is_nothing else [{"type": "text", "text": content}]
    elif "parts" in forms:
        formed = content
    else:
        formed = text_of(turn) if "text" in forms else [{"type": "text", "text": text_of(turn)}]
    return turn | {"content": formed}
