"""How calls are written that a model's own response template reads: told by what opens, closes and names them."""

import json
from collections.abc import Iterator

from octavo.answers.parts import Answer
from octavo.answers.response_template import Kind, ResponseTemplate, Section
from octavo.answers.template_reader import TemplateReader
from octavo.answers.tools import Tool, ToolUse
from octavo.answers.writing import Writing

_PROBE = Tool("probe", None, {"type": "object", "properties": {"a": {"type": "string"}}})
_ARGUMENTS = {"json": '{"a": "b"}', "python": 'a="b"', "tagged": "<parameter=a>\nb\n</parameter>\n"}


def writing_read_by(template: ResponseTemplate, told: Writing | None) -> Writing | None:
    """A way to write calls that the template reads as such.

    Args:
        told: that of the format which the model's chat template shows, taken if it is one.
    """
    candidates = [*([] if told is None else [told]), *_derived(template)]
    return next((writing for writing in candidates if _is_read(template, writing)), None)


def _derived(template: ResponseTemplate) -> Iterator[Writing]:
    for section in template.sections:
        if section.kind is Kind.CALLS and section.open is not None and section.open.literals:
            yield from _of_section(section, section.open.literals[0])


def _of_section(section: Section, opening: str) -> Iterator[Writing]:
    closing = section.close.literals[0] if section.close is not None and section.close.literals else ""
    shape = section.shape
    if section.content == "python-call-list":
        yield Writing("{name}(", ")", "python", opening + "[", ", ", "]" + closing, trigger=opening)
    if section.content == "json" and shape is not None and shape.name_key is not None and shape.argument_keys:
        name, arguments = json.dumps(shape.name_key), json.dumps(shape.argument_keys[0])
        call = f'{{{name}: "{{name}}", {arguments}: '
        yield Writing(opening + call, "}" + closing, trigger=opening)
        yield Writing(call, "}", "json", opening + "[", ", ", "]" + closing, trigger=opening)


def _is_read(template: ResponseTemplate, writing: Writing) -> bool:
    """Whether two calls, one after the other, are read as these."""
    arguments = _ARGUMENTS[writing.arguments]
    call = writing.opening_of(_PROBE.name).replace("{id}", "a1b2c3d4e") + arguments + writing.closing
    reader, answer = TemplateReader(template, "", ToolUse((_PROBE,)), True), Answer()
    answer.add(reader.push(writing.before + call + writing.between + call + writing.behind))
    answer.add(reader.finish())
    try:
        read = [(made.name, json.loads(made.arguments)) for made in answer.calls]
    except ValueError:
        return False
    return read == [(_PROBE.name, {"a": "b"})] * 2 and not answer.text.strip()
