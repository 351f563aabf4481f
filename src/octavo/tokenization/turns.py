"""Turns of a conversation, rewritten for the chat template at hand: what it does not show is said where it does."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from octavo.tokenization.call_turns import fitted_calls
from octavo.tokenization.conversation import ROLES_WITHOUT_TEXT, Message, joined, text_of
from octavo.tokenization.speakers import SYSTEM_ROLES, with_heard_systems, with_heard_users
from octavo.tokenization.template_trials import CallForm, TemplateTrials
from octavo.tokenization.tool_text import calls_as_text, functions_as_text, response_as_text, tools_as_text


def fitted_turns(
    messages: Sequence[Message], tools: list[Message], trials: TemplateTrials
) -> tuple[list[Message], list[Message]]:
    """The turns of a conversation as a template shows them, and tools that it shows.

    Args:
        messages: as `checked_messages` makes them, with arguments as the template takes them.
        tools: where it has no place for them, the turns tell of them.
    """
    turns = list(messages)
    form = shown_calls(tools, trials)
    if tools and not trials.shows_tools:
        turns, tools = _with_told_tools(turns, tools, trials), []
    turns = with_heard_systems(turns, trials)
    if any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
        turns = _with_tool_turns(turns, trials, form)
    turns = with_heard_users(turns, trials)
    return [_with_formed_content(turn, trials, form) for turn in turns], tools


def shown_calls(tools: list[Message], trials: TemplateTrials) -> CallForm | None:
    """How the template shows calls; None where they are text: it shows none, or the model is told to write them so."""
    return None if tools and not trials.shows_tools else trials.call_form


def _with_told_tools(turns: list[Message], tools: list[Message], trials: TemplateTrials) -> list[Message]:
    """Tools behind what the system says."""
    first, *others = turns if turns[0]["role"] in SYSTEM_ROLES else [{"role": "system", "content": ""}, *turns]
    if trials.shows_tools_of_system:
        return [first | {"role": "system", "tools": functions_as_text(tools)}, *others]
    return [first | {"content": joined(text_of(first), tools_as_text(tools))}, *others]


def _with_tool_turns(turns: list[Message], trials: TemplateTrials, form: CallForm | None) -> list[Message]:
    turns = [_with_calls_as_text(turn) for turn in turns] if form is None else fitted_calls(turns, trials)
    if trials.shows_role("tool") and (form is not None or trials.shows_tools):
        return turns
    writes_any_role = trials.shows_role("tool") and not trials.knows_role("tool")
    return _with_responses_as_text(turns, "tool" if writes_any_role else "user")


def _with_calls_as_text(turn: Message) -> Message:
    if "tool_calls" not in turn:
        return turn
    said = {key: value for key, value in turn.items() if key != "tool_calls"}
    return said | {"content": joined(text_of(turn), calls_as_text(turn["tool_calls"]), "\n")}


def _with_responses_as_text(turns: Iterable[Message], role: str) -> list[Message]:
    """The answers of tools that follow each other are one turn of this role."""
    written: list[Message] = []
    for is_response, group in itertools.groupby(turns, lambda turn: turn["role"] == "tool"):
        if is_response:
            written.append({"role": role, "content": "\n".join(response_as_text(text_of(turn)) for turn in group)})
        else:
            written += group
    return written


def _with_formed_content(turn: Message, trials: TemplateTrials, form: CallForm | None) -> Message:
    """Content in the form that it was given in, if the template takes it.

    Where a turn may lack content, an empty text is no part; elsewhere it is one, for templates that take the first.
    """
    content, role = turn["content"], turn["role"]
    forms = trials.of_content(role)
    formed: Any
    if not content and "tool_calls" in turn and form is not None and form.without_content:
        formed = None
    elif isinstance(content, str):
        is_nothing = role in ROLES_WITHOUT_TEXT and not content
        formed = content if "text" in forms else [] if is_nothing else [{"type": "text", "text": content}]
    elif "parts" in forms:
        formed = content
    else:
        formed = text_of(turn) if "text" in forms else [{"type": "text", "text": text_of(turn)}]
    return turn | {"content": formed}
