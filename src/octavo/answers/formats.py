"""The formats of answers: which one a model has, and what each is asked for (`AnswerFormat`)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.answers.answer_format import AnswerReader
from octavo.answers.built_in import BUILT_IN, NAMES, SYNONYMS, template_of
from octavo.answers.call_grammars import answer_grammar
from octavo.answers.delimiters import Delimiter
from octavo.answers.derived_writing import writing_read_by
from octavo.answers.response_template import Kind, ResponseTemplate, read_response_template
from octavo.answers.template_reader import TemplateReader
from octavo.answers.tools import ToolUse
from octavo.answers.writing import Writing
from octavo.errors import ConfigError, RequestError

logger = logging.getLogger(__name__)

OWN = "response_template"
"""The name of the format that a model's own files declare."""
DEFAULT = "hermes"
"""For models of which nothing is known: it is what they are told to write."""
_ANCHOR_REACH = 2**16
"""Characters of a prompt's end in which an anchor's pattern is looked for."""
_ANCHOR_TIME_S = 0.1


@dataclass(frozen=True, slots=True)
class TemplateFormat:
    """A format that a response template declares (`AnswerFormat`)."""

    name: str
    template: ResponseTemplate
    writing: Writing | None
    """How its calls are written; None where only reading them is known."""

    @property
    def markers(self) -> frozenset[str]:
        """Texts that readers look for: special tokens that are part of one have to stay in an answer's text."""
        return self.template.markers

    @property
    def reasoning_opening(self) -> str | None:
        """What opens a reasoning section; None where the model has none, or it is no fixed text."""
        return _text_of(self._reasoning[0])

    @property
    def reasoning_end(self) -> str | None:
        """What ends a reasoning section; None where the model has none, or it is no fixed text."""
        return _text_of(self._reasoning[1])

    @property
    def _reasoning(self) -> tuple[Delimiter | None, Delimiter | None]:
        sections = (section for section in self.template.sections if section.kind is Kind.REASONING)
        return next(((section.open, section.close) for section in sections), (None, None))

    def reader(self, prompt: str, use: ToolUse, *, reads_reasoning: bool = True) -> AnswerReader:
        """Of one answer (see `AnswerFormat`)."""
        return TemplateReader(self.template, self._begun(prompt), use, reads_reasoning)

    def answer_grammar(self, use: ToolUse, text: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """What answers conform to (see `AnswerFormat`).

        Raises:
            RequestError: calls cannot be held to a grammar in this format.
        """
        if self.writing is not None:
            return answer_grammar(self.writing, use, text)
        tools = use.callable_tools
        if tools and (use.must_call or text is not None or not use.parallel or any(tool.strict for tool in tools)):
            raise RequestError(
                "calls cannot be held to schemas here: of this model's response_template it is known how calls are "
                "read, not how they are written. Leave tool_choice, parallel_tool_calls, strict and what says what an "
                "answer conforms to out, or start the server with the format's name as --tool-parser"
            )
        return None if text is None else dict(text)

    def _begun(self, prompt: str) -> str:
        """What of the answer is in the prompt already: what follows its last anchor. Without one, the opening of a
        reasoning section at its end."""
        anchor, opening = self.template.start_anchor, self.reasoning_opening
        if anchor.literals:
            ends = [at + len(text) for text in anchor.literals if (at := prompt.rfind(text)) >= 0]
        else:
            ends = _pattern_ends(anchor, prompt)
        if ends:
            return prompt[max(ends) :]
        at = -1 if opening is None else prompt.rfind(opening)
        return prompt[at:] if at >= 0 and prompt[at:].strip() == opening else ""


def _pattern_ends(anchor: Delimiter, prompt: str) -> list[int]:
    try:
        start = max(0, len(prompt) - _ANCHOR_REACH)
        return [match.end() for match in anchor.pattern.finditer(prompt, start, timeout=_ANCHOR_TIME_S)]
    except TimeoutError:
        return []


def _text_of(delimiter: Delimiter | None) -> str | None:
    return delimiter.literals[0] if delimiter is not None and delimiter.literals else None


def built_in_format(name: str, chat_template: str | None = None) -> TemplateFormat:
    """A format by its name, or by what others call it, with the reasoning sections that the chat template tells of.

    Raises:
        ConfigError: there is none of that name.
    """
    known = BUILT_IN.get(SYNONYMS.get(name, name))
    if known is None:
        raise ConfigError(f"there is no format {name!r} of answers; there are {', '.join(NAMES)}")
    template = read_response_template(template_of(known, chat_template))
    return TemplateFormat(SYNONYMS.get(name, name), template, known.writing_of(chat_template or ""))


FORMATS = {name: built_in_format(name) for name in BUILT_IN}
"""All built-in formats by name, without reasoning sections but where these are part of the format."""


def format_of(chat_template: str | None, response_template: Any = None, name: str = "auto") -> TemplateFormat:
    """The format of a model's answers.

    Args:
        chat_template: the model's, in which its own markers show.
        response_template: what the model's files declare; one that is malformed is warned of, and not used.
        name: of a built-in format, in place of what the files tell; `auto` where they are to tell.

    Raises:
        ConfigError: there is no format of that name.
    """
    if name != "auto":
        return built_in_format(name, chat_template)
    told = _told_by(chat_template or "")
    if response_template is None:
        return built_in_format(told or DEFAULT, chat_template)
    try:
        own = read_response_template(response_template)
    except (ValueError, TypeError, RecursionError) as error:
        chosen = built_in_format(told or DEFAULT, chat_template)
        logger.warning(
            "the model's response_template is not used: %s; answers are read as %s writes them, and --tool-parser "
            "takes another format",
            error,
            chosen.name,
        )
        return chosen
    if own.unknown_fields:
        logger.warning("fields of the model's response_template stay in the text: %s", ", ".join(own.unknown_fields))
    writing = None if told is None else BUILT_IN[told].writing_of(chat_template or "")
    return TemplateFormat(OWN, own, writing_read_by(own, writing))


def _told_by(chat_template: str) -> str | None:
    """The built-in format whose markers a chat template has."""
    for name, built_in in BUILT_IN.items():
        if any(text in chat_template for text in built_in.told_by):
            return name
    return None
