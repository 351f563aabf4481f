"""Turning a conversation into a prompt with the model's Jinja template: somebody else's code, run in a sandbox.

It is run in a process of its own (`TemplateProcesses`), as no sandbox keeps a template from taking all time and memory.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.config import ContentFormat
from octavo.errors import RequestError
from octavo.tokenization.conversation import Conversation, checked_messages, checked_tools, with_arguments
from octavo.tokenization.spelled_tokens import Rendered, SpellingBreaker, unescape, unused_characters
from octavo.tokenization.template_trials import TemplateTrials
from octavo.tokenization.turns import fitted_turns, shown_calls

REMEDY = "--chat-template gives another"
MAX_TRIAL_CHARACTERS = 2**16
"""Of a trial's prompt, whose messages are a few words each."""
UNUSED_GLOBALS = ("lipsum", "cycler", "joiner")
"""What Jinja offers to web pages, and no chat template needs."""


class ChatTemplate:
    """A compiled template, with what templates written for Hugging Face's `apply_chat_template` expect to find.

    Args:
        source: Jinja text.
        special_tokens: variables such as `bos_token` and `eos_token`.
        content_format: the form in which messages' content is given to the template (`TemplateTrials`).
        breaker: of special tokens that messages spell; by default they are the template's own.

    Raises:
        RequestError: the source is not a Jinja template.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        content_format: ContentFormat = "auto",
        breaker: SpellingBreaker | None = None,
    ) -> None:
        self._special_tokens = special_tokens
        self._breaker = breaker or SpellingBreaker(())
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))
            """The names of all variables that it may ask for."""
        except Exception as error:  # Python compiles what Jinja writes, and may refuse it in its own ways
            raise RequestError(f"the chat template is not valid Jinja: {_cause(error)}; {REMEDY}") from error
        self._trials = TemplateTrials(
            lambda messages, variables: self._write(messages, True, variables, MAX_TRIAL_CHARACTERS), content_format
        )

    def render(self, conversation: Conversation, max_characters: int | None = None) -> Rendered:
        """The prompt that the template makes of a conversation.

        Args:
            max_characters: how long it may get.

        Raises:
            RequestError: the messages are malformed, the template refuses them or fails, it has no use for something
                that was given, or the prompt gets too long.
        """
        variables = dict(conversation.variables)
        if variables.get("documents") and "documents" not in self.variables:
            raise RequestError(f"the chat template has no use for documents: leave it out; {REMEDY}")
        tools = checked_tools(variables.pop("tools", None) or [])
        messages = checked_messages(conversation.messages)
        if any("tool_calls" in message for message in messages):
            form = shown_calls(tools, self._trials)
            messages = with_arguments(messages, as_mapping=form is not None and form.as_mapping)
        separator = end = ""
        if self._breaker.touches([messages, tools, variables]) or conversation.continue_final_message:
            unused = unused_characters([messages, tools, variables])
            separator, end = next(unused), next(unused) if conversation.continue_final_message else ""
            messages, tools, variables = self._breaker.broken([messages, tools, variables], separator)
        # What is added to messages now is the template's word: special tokens in it are meant as such.
        messages, tools = fitted_turns(messages, tools, self._trials)
        if tools:
            variables["tools"] = tools
        if conversation.continue_final_message:
            _mark_end(messages[-1], end)
        try:
            text = self._write(messages, conversation.add_generation_prompt, variables, max_characters)
        except Exception as error:  # a template may fail in any way that code can
            raise RequestError(f"the chat template cannot render these messages: {_cause(error)}; {REMEDY}") from error
        if conversation.continue_final_message:
            text = _up_to_end(unescape(text, end), end)
        return Rendered(unescape(text, separator), separator) if separator else Rendered(text)

    def _write(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        max_characters: int | None,
    ) -> str:
        known = {"tools": None, "documents": None, **self._special_tokens, **variables}
        pieces, num_characters = [], 0
        for piece in self._template.generate(known, messages=messages, add_generation_prompt=add_generation_prompt):
            pieces.append(piece)
            num_characters += len(piece)
            if max_characters is not None and num_characters > max_characters:
                raise RequestError(f"it writes more than {max_characters:,} characters")
        return "".join(pieces)


def _cause(error: Exception) -> str:
    return "it takes too much memory" if isinstance(error, MemoryError) else str(error) or type(error).__name__


def _mark_end(message: dict[str, Any], end: str) -> None:
    """Put a mark and a space behind the last text of a message."""
    content = message["content"]
    if isinstance(content, str):
        message["content"] = f"{content}{end} "
    elif content:
        content[-1]["text"] = f"{content[-1]['text']}{end} "


def _up_to_end(text: str, end: str) -> str:
    """A prompt cut at the mark. A template that has removed the space trims texts: so is the one in front of it."""
    before, mark, after = text.rpartition(end)
    if not mark:
        raise RequestError(
            "continue_final_message needs a last message whose text the chat template shows: it is not in the prompt"
        )
    return before if after.startswith(" ") else before.rstrip()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, but touching what is forbidden fails at once, where by default it reads as empty text."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is not allowed")


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's own words for training; a prompt just has what is inside."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> Environment:
    extensions = ["jinja2.ext.loopcontrols", _GenerationBlock]
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    for name in UNUSED_GLOBALS:
        del environment.globals[name]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a prompt is not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
