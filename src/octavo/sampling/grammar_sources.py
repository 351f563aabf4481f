"""Grammars of the built-in kinds in llguidance's form, and what it may take to follow one."""

import json
import re
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

from octavo.errors import GrammarError
from octavo.sampling.marks import NO_MARKS, Marks
from octavo.sampling.schema_rewrites import rewritten
from octavo.sampling.structural_tags import read_grammar, read_structural_tag
from octavo.sampling.tag_grammar import grammar_of_parts
from octavo.structured_outputs import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

LIMITS = LLParserLimits(
    step_lexer_fuel=20_000,  # a mask takes at most some tens of milliseconds, and what would take more fails
    max_lexer_states=20_000,  # of 1 to 2 kB, for each compiled grammar
    verbose_errors=False,
)
WHITESPACE = r"[ \t]|\r?\n[ \t]{0,40}"
"""Between the tokens of JSON: a blank, or the end of a line and an indentation. Small models write blanks without an
end where they may."""
_SCHEMA_FAULT = re.compile(r"failed to compile JSON schema: [^\n]*")


def source_of(grammar: Grammar, marks: Marks = NO_MARKS) -> str:
    """A grammar of a built-in kind in llguidance's form.

    Args:
        marks: the model's special tokens. Structural tags spell them.

    Raises:
        GrammarError: its source is wrong.
    """
    match grammar.kind:
        case "json_object":
            return _of_schema('{"type":"object"}')
        case "json_schema":
            return _of_schema(grammar.source)
        case "choice":
            # As one regex: of a rule's alternatives llguidance follows far fewer at once.
            return LLMatcher.grammar_from_regex("|".join(map(_as_regex, json.loads(grammar.source))))
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.source)
        case "structural_tag":
            return grammar_of_parts(read_structural_tag(grammar.source, marks), _inner_schema)
        case _:
            return LLMatcher.grammar_from_lark(read_grammar(grammar.source))


def check_grammar(grammar: Grammar) -> None:
    """Refuse a grammar that is wrong, whatever the vocabulary.

    Raises:
        GrammarError: it is.
    """
    message = LLMatcher.validate_grammar(source_of(grammar), None, limits=LIMITS)
    if message and not message.startswith("WARNING"):
        raise GrammarError(first_lines(message))


def _of_schema(source: str) -> str:
    try:
        schema = rewritten(json.loads(source))
        if not isinstance(schema, dict):
            raise ValueError("nothing conforms to it")
        own = schema.get("x-guidance", {})
        says = isinstance(own, dict) and not own.keys().isdisjoint(("whitespace_pattern", "whitespace_flexible"))
        defaults: JsonCompileOptions = {} if says else {"whitespace_pattern": WHITESPACE}
        return LLMatcher.grammar_from_json_schema(json.dumps(schema, ensure_ascii=False), defaults, {"lenient": False})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GrammarError(f"the schema cannot be read: {error}") from error


def _inner_schema(source: str) -> str:
    """A schema as it stands in a grammar that has more than it."""
    [whole] = json.loads(_of_schema(source))["grammars"]
    return json.dumps(whole["json_schema"], ensure_ascii=False)


def _as_regex(text: str) -> str:
    """A regex that matches this text alone."""
    return "".join(i if i.isalnum() or not i.isascii() else f"\\x{ord(i):02x}" for i in text)


def first_lines(message: str) -> str:
    """What an error of llguidance says, without the grammar behind it. A schema's fault is told without its place: that
    is in a grammar of ours."""
    if fault := _SCHEMA_FAULT.search(message):
        message = fault[0]
    return message.partition("\n<")[0].strip()[:500]
