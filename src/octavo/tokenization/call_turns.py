"""Calls of tools in a conversation, for a chat template that shows them in a way of its own."""

import hashlib
import string
from collections.abc import Iterable, Sequence

from octavo.tokenization.conversation import REASONING_KEYS, Message, joined, text_of
from octavo.tokenization.template_trials import TemplateTrials

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9


def fitted_calls(turns: list[Message], trials: TemplateTrials) -> list[Message]:
    """Turns whose calls the template shows, all of them."""
    if not any("tool_calls" in turn for turn in turns):
        return turns
    if not trials.takes_any_id:
        turns = [_with_short_ids(turn) for turn in turns]
    if not trials.shows_several_calls:
        turns = _with_a_call_each(turns)
    if not trials.shows_calls_beside_text:
        return [each for turn in turns for each in _with_text_apart(turn)]
    if not trials.takes_reasoning_beside_both:
        return [_with_one_text(turn) for turn in turns]
    return turns


def _with_short_ids(turn: Message) -> Message:
    """Ids of nine letters and digits, as the templates of Mistral's models demand: the same id is always the same."""
    if "tool_calls" in turn:
        turn = turn | {"tool_calls": [call | {"id": _short_id(call["id"])} for call in turn["tool_calls"]]}
    if isinstance(turn.get("tool_call_id"), str):
        turn = turn | {"tool_call_id": _short_id(turn["tool_call_id"])}
    return turn


def _short_id(given: str) -> str:
    if len(given) == _ID_LENGTH and given.isascii() and given.isalnum():
        return given
    digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
    return "".join(_ID_CHARACTERS[byte % len(_ID_CHARACTERS)] for byte in digest[:_ID_LENGTH])


def _with_a_call_each(turns: Iterable[Message]) -> list[Message]:
    """A turn for each call, with its answers behind it."""
    groups: list[list[Message]] = []
    for turn in turns:
        if turn["role"] == "tool" and groups:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return [each for first, *answers in groups for each in _a_call_each(first, answers)]


def _a_call_each(turn: Message, answers: Sequence[Message]) -> list[Message]:
    first, *others = turn.get("tool_calls") or [None]
    if not others:
        return [turn, *answers]
    written: list[Message] = []
    for call in (first, *others):
        written.append((turn if call is first else {"role": turn["role"], "content": ""}) | {"tool_calls": [call]})
        written += [answer for answer in answers if answer.get("tool_call_id") == call["id"]]
        answers = [answer for answer in answers if answer.get("tool_call_id") != call["id"]]
    return [*written, *answers]


def _with_text_apart(turn: Message) -> list[Message]:
    """Calls in a turn of their own, behind the text."""
    if "tool_calls" not in turn or not text_of(turn):
        return [turn]
    said = {key: value for key, value in turn.items() if key != "tool_calls"}
    return [said, {"role": turn["role"], "content": "", "tool_calls": turn["tool_calls"]}]


def _with_one_text(turn: Message) -> Message:
    """Reasoning with the text behind it, for templates that take only one of them beside calls."""
    thought, said = turn.get(REASONING_KEYS[0]), text_of(turn)
    if "tool_calls" not in turn or not thought or not said:
        return turn
    return turn | dict.fromkeys(REASONING_KEYS, joined(thought, said)) | {"content": ""}
