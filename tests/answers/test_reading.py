"""What comes when, and what becomes of answers that are cut, crooked or hostile."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answers.test_answers import parts_of, read
from answers.transcripts import FORMS, USE
from octavo.answers.built_in import BUILT_IN, NAMES, SYNONYMS
from octavo.answers.formats import DEFAULT, OWN, TemplateFormat, built_in_format, format_of
from octavo.answers.parts import Answer, CallArguments, CallStart, Reasoning, Text
from octavo.answers.response_template import read_response_template
from octavo.answers.tools import Tool, ToolUse
from octavo.errors import ConfigError

HERMES = built_in_format("hermes", "<think>")
QWEN_CODER = built_in_format("qwen3_coder", "<think>")

COHERE = {
    "start_anchor": "<|CHATBOT_TOKEN|>",
    "fields": {
        "content": {"open": "<|START_RESPONSE|>", "close": "<|END_RESPONSE|>"},
        "thinking": {"open": "<|START_THINKING|>", "close": "<|END_THINKING|>"},
        "tool_calls": {
            "open": "<|START_ACTION|>",
            "close": "<|END_ACTION|>",
            "content": "json",
            "transform_each": True,
            "transform": {"type": "function", "function": {"name": "{tool_name}", "arguments": "{parameters}"}},
        },
    },
}
GEMMA = {
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "thinking": {"open": "<|channel>thought\n", "close": "<channel|>"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<turn|>", "<eos>"]},
    },
}
ERNIE = {
    "start_anchor": "Assistant:",
    "fields": {
        "thinking": {"open_pattern": r"(?:^|<think>\s*)", "close": "</think>"},
        "content": {"open": "<response>\n", "close_pattern": r"\n?</response>"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}
LINES = {
    "start_anchor": "bot:",
    "fields": {
        "content": {},
        "tool_calls": {
            "open_pattern": r"CALL (?P<name>\w+)\n",
            "close_pattern": r"END\b",
            "content": "kv-lines",
            "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}
DEEP = {
    "start_anchor": "bot:",
    "fields": {
        "content": {"close_pattern": r"(a+)+$|\s*STOP"},
        "thinking": {"open_pattern": r"\s*<t+>", "close_pattern": r"</t+>|$"},
        "tool_calls": {
            "open_pattern": r"<(?P<tag>call)[^>]*>(?!no)",
            "close_pattern": r"</call.*?>",
            "content": "json",
            "transform": {"function": {"name": "{content.what.name}", "arguments": "{content.with}"}},
        },
    },
}


def own(template: Any) -> TemplateFormat:
    return format_of(None, template)


@pytest.mark.parametrize(
    ("template", "text", "calls", "words"),
    [
        (COHERE, '<|START_ACTION|>[{"tool_name": "now", "parameters": {}}]<|END_ACTION|>', [("now", {})], ""),
        (COHERE, "noise<|START_RESPONSE|>Hello.<|END_RESPONSE|>noise", [], "Hello."),
        (GEMMA, 'Hm.<|tool_call>call:search{query:<|"|>a, b: {"c"}<|"|>,limit:3}<tool_call|><turn|>',
         [("search", {"query": 'a, b: {"c"}', "limit": 3})], "Hm."),
        (ERNIE, 'so</think>\n<tool_call>{"name": "now", "arguments": {}}</tool_call>', [("now", {})], ""),
        (LINES, "Go. CALL search\nquery: a: b\nlimit: 3\nexact: true\nEND.",
         [("search", {"query": "a: b", "limit": 3, "exact": True})], "Go. ."),
        (DEEP, '<call 1>{"what": {"name": "now"}, "with": {"a": 1}}</call x>STOP', [("now", {"a": 1})], ""),
    ],
)  # fmt: skip
def test_templates_of_checkpoints_are_carried_out(template: Any, text: str, calls: list[Any], words: str):
    answer = read(own(template), text)
    assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == calls
    assert answer.text == words


FORMATS = [
    *(built_in_format(form.name, form.chat_template) for form in FORMS),
    *map(own, (COHERE, GEMMA, ERNIE, LINES, DEEP)),
]
FRAGMENTS = st.sampled_from(
    [
        *(marker for form in FORMATS for marker in form.markers),
        *(
            "<tool_call>",
            "</tool_call>",
            "<think>",
            "</think>",
            '{"name": "',
            '"arguments": ',
            "now",
            "search",
            "\n",
            " ",
            "a",
        ),
        *(
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            "\\",
            "\\u00e9",
            "\\ud83d",
            ", ",
            "(",
            ")",
            "=",
            ":",
            "null",
            "1",
            "é",
            "🦊",
            ";",
            "<",
        ),
        *(
            "<call>",
            "</call>",
            "<tt>",
            "aaaa",
            "STOP",
            "CALL now\n",
            "END",
            "<function=now>",
            "<parameter=a>",
            "</parameter>",
        ),
        *("</function>", "[TOOL_CALLS]now[ARGS]", "functools[", "<|channel|>commentary to=functions.now <|message|>"),
    ]
)


@pytest.mark.parametrize("answer_format", FORMATS, ids=lambda each: each.name)
@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(FRAGMENTS, max_size=14), data=st.data())
def test_any_text_however_it_is_cut_reads_the_same(
    answer_format: TemplateFormat, pieces: list[str], data: st.DataObject
):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    asked = {
        "reads_reasoning": data.draw(st.booleans()),
        "prompt": data.draw(st.sampled_from(["", "bot:<think>\n"])),
        "use": ToolUse(USE.tools, data.draw(st.sampled_from(["auto", "required"])), parallel=data.draw(st.booleans())),
    }
    cut = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(answer_format, text, **asked)
    assert read(answer_format, *cut, **asked) == whole
    assert read(answer_format, *text, **asked) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12))
def test_text_without_tools_and_reasoning_is_the_text(pieces: list[str]):
    text = "".join(pieces)
    assert read(HERMES, text, use=ToolUse(), reads_reasoning=False) == Answer(text=text)


def test_text_comes_at_once_but_for_what_could_begin_a_marker():
    reader = HERMES.reader("", USE)
    assert reader.push("Hello <") == [Text("Hello ")]
    assert reader.push("tool") == []
    assert reader.push("box> 1") == [Text("<toolbox> 1")]


def test_a_call_begins_with_its_name_and_its_arguments_come_as_they_are_written():
    reader = HERMES.reader("", USE)
    assert reader.push('<tool_call>\n{"name": "get_w') == []
    assert reader.push('eather"') == [CallStart(0, "get_weather")]
    assert reader.push(', "arguments": {"ci') == [CallArguments(0, '{"ci')]
    assert reader.push('ty": "Par') == [CallArguments(0, 'ty": "Par')]
    assert reader.push('is"}') == [CallArguments(0, 'is"}')]
    assert reader.push("}\n</tool_call>\n") == []
    assert reader.finish() == []


def test_arguments_of_other_forms_come_as_json_while_they_are_written():
    reader = QWEN_CODER.reader("", USE)
    reader.push("<tool_call>\n<function=write_file>\n<parameter=content>\n")
    assert reader.push('say "hi"') == [CallArguments(0, '{"content": "say \\"hi\\"')]
    assert reader.push(" again") == [CallArguments(0, " again")]
    python = built_in_format("llama_pythonic").reader("", USE)
    assert python.push("[search(exact=Tr") == [CallStart(0, "search"), CallArguments(0, '{"exact": ')]
    assert python.push("ue, query='it") == [CallArguments(0, 'true, "query": "it')]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"arguments": {"city": "x"}, "name": "now"}', '{"city": "x"}'),
        ('{"parameters": {"city": "x"}, "name": "now"}', '{"city": "x"}'),
        ('{"name": "now", "parameters": {"city": "x"}}', '{"city": "x"}'),
        ('{"id": 7, "name": "now", "why": ["}"], "arguments": {}}', "{}"),
        ('{"name": "now", "arguments": "{\\"a\\": \\"\\\\u00e9\\\\n\\"}"}', '{"a": "\\u00e9\\n"}'),
        ('{"name": "now", "arguments": "{\\"a\\": \\"\\ud83d\\ude00\\"}"}', '{"a": "\\ud83d\\ude00"}'),
        ('{"name": "now", "arguments": null}', "{}"),
        ('{"name": "now", "arguments": ""}', "{}"),
        ('{"name": "now"}', "{}"),
        ('{"name": "now", "arguments": {"a": tru, b}}', '{"a": tru, b}'),
        ('{"name": "now", "arguments": {"a": {"b": 1}', '{"a": {"b": 1}'),
        ('{"name": "now", "arguments": {"a": "</tool_call>"}}', '{"a": "</tool_call>"}'),
        ('{"name": "now", "arguments": {}}}}', "{}"),
    ],
)
def test_a_calls_keys_have_any_order_and_its_arguments_stay_as_written(text: str, arguments: str):
    answer = read(HERMES, f"<tool_call>{text}</tool_call>")
    assert [(call.name, call.arguments) for call in answer.calls] == [("now", arguments)]
    assert answer.text == ""


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": 5}, '"7"'),
        ({"type": ["integer", 5, None]}, "7"),
        ({"anyOf": [{"$ref": "#/properties/days"}] * 50 + [{"type": "integer"}]}, "7"),
        ({"$ref": "#/properties/days"}, '"7"'),
    ],
    ids=["no type", "types and others", "references to itself", "nothing but itself"],
)
def test_a_schema_that_nobody_has_checked_says_what_it_can_of_a_value(schema: dict[str, Any], value: str):
    tool = Tool("now", None, {"type": "object", "properties": {"days": schema}})
    text = "<tool_call>\n<function=now>\n<parameter=days>\n7\n</parameter>\n</function>\n</tool_call>"
    reader = QWEN_CODER.reader("", ToolUse((tool,)))
    answer = Answer()
    answer.add([*reader.push(text), *reader.finish()])
    assert [call.arguments for call in answer.calls] == [f'{{"days": {value}}}']


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_call_that_is_cut_short_keeps_what_there_is(form):
    call = form.calls([("write_file", {"path": "a.py", "content": "x = 1"})])
    at = call.index("x = 1") + 3
    [kept] = read(built_in_format(form.name, form.chat_template), call[:at]).calls
    assert kept.name == "write_file"
    assert kept.arguments.replace(" ", "") == '{"path":"a.py","content":"x='


def test_numbers_and_truths_are_typed_by_the_tools_schema_and_texts_are_not():
    values = {"limit": "03", "score": "1.50", "exact": "True", "tags": '["a"]', "filters": "None", "query": "12"}
    tagged = "".join(f"<parameter={key}>\n{value}\n</parameter>" for key, value in values.items())
    [call] = read(QWEN_CODER, f"<tool_call><function=search>{tagged}</function></tool_call>").calls
    expected = {"limit": 3, "score": 1.5, "exact": True, "tags": ["a"], "filters": None, "query": "12"}
    assert json.loads(call.arguments) == expected


def test_types_are_found_behind_references_and_a_value_that_fits_none_is_a_text():
    schema = {
        "properties": {"at": {"$ref": "#/$defs/Place"}, "n": {"type": ["integer", "null"]}, "e": {"enum": [1, 2]}},
        "$defs": {"Place": {"anyOf": [{"type": "object"}, {"$ref": "#/$defs/Place"}]}},
    }
    text = "".join(f"<parameter={k}>{v}</parameter>" for k, v in {"at": '{"x": 1}', "n": "many", "e": "2"}.items())
    use = ToolUse((Tool("go", None, schema),))
    [call] = read(QWEN_CODER, f"<function=go>{text}</function>", use=use).calls
    assert json.loads(call.arguments) == {"at": {"x": 1}, "n": "many", "e": 2}


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "words"),
    [
        ("<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("<|im_start|>assistant\n", "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "Yes.", "", "Yes."),
        ("<|im_start|>assistant\n", "<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", " Yes.", "", " Yes."),
        ("no template at all <think>", "Hm.</think>Yes.", "Hm.", "Yes."),
        ("what is <think> for", "Yes.", "", "Yes."),
        ("<|im_start|>assistant\n<think>Half a tho", "ught.</think>Yes.", "ught.", "Yes."),
        ("<|im_start|>assistant\nI <", "3 you", "", "3 you"),
    ],
)
def test_the_prompts_end_tells_where_the_answer_begins(prompt: str, text: str, reasoning: str, words: str):
    assert read(HERMES, text, prompt=prompt) == Answer(words, reasoning)
    assert read(HERMES, *text, prompt=prompt) == Answer(words, reasoning)


def test_a_reader_knows_whether_the_answer_reasons():
    reader = HERMES.reader("<|im_start|>assistant\n<think>\n", USE)
    states = [(reader.is_reasoning, reader.push(piece)) for piece in ("Hm.</think>", "Yes.")]
    assert states == [(True, [Reasoning("Hm.")]), (False, [Text("Yes.")])]
    assert (HERMES.reasoning_opening, HERMES.reasoning_end) == ("<think>", "</think>")
    assert built_in_format("hermes").reasoning_end is None


def test_reasoning_that_is_not_told_apart_is_text_in_which_no_calls_are_looked_for():
    text = '<think>Should I <tool_call>{"name": "now"}</tool_call>?</think>\n\nNo.'
    assert read(HERMES, text, reads_reasoning=False) == Answer(text)


def test_where_no_tool_may_be_called_calls_are_text():
    text = '<tool_call>{"name": "now"}</tool_call>'
    assert read(HERMES, text, use=ToolUse(USE.tools, "none")) == Answer(text)
    assert read(HERMES, text, use=ToolUse(USE.tools, "required", named="search")) == Answer(text)


@pytest.mark.parametrize("end", ["\n<tool_", "\n<tool_call>", '\n<tool_call>\n{"name": "no', "\n"])
def test_where_a_tool_must_be_called_the_beginning_of_a_call_at_the_end_is_no_text(end: str):
    text = '<tool_call>{"name": "now"}</tool_call>' + end
    must = read(HERMES, text, use=ToolUse(USE.tools, "required"))
    assert (must.text, [call.name for call in must.calls]) == ("", ["now"])
    assert read(HERMES, text).text == ("" if end == "\n" else end)


def test_where_calls_are_not_to_be_parallel_only_the_first_counts():
    text = '<tool_call>{"name": "now"}</tool_call>\n<tool_call>{"name": "search"}</tool_call>\nDone.'
    answer = read(HERMES, text, use=ToolUse(USE.tools, parallel=False))
    assert [call.name for call in answer.calls] == ["now"]
    assert answer.text == "\nDone."


def test_ids_come_from_the_model_where_it_gives_them():
    text = "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}[TOOL_CALLS]now[ARGS]{}"
    assert [call.id for call in read(built_in_format("mistral"), text).calls] == ["abcdefghi", None]


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "harmony"])
def test_thirty_thousand_characters_of_markers_are_read_in_one_piece(name: str):
    """In time that grows with the square of the text, this would take longer than any patience."""
    answer_format = built_in_format(name, "<think>")
    for marker in (
        "<tool_call",
        "<tool_call>",
        "[TOOL_CALLS]",
        "<|channel|>",
        "functools",
        '<tool_call>{"',
        "</think>",
    ):
        text = marker * (30_000 // len(marker))
        assert read(answer_format, text).text in (text, "")
    nested = "<tool_call>" + '{"name": "now", "arguments": ' + "{" * 30_000
    assert "".join(part.text for part in parts_of(HERMES, [nested]) if isinstance(part, CallArguments)) == "{" * 30_000


def test_a_pattern_that_takes_too_long_is_given_up_and_the_rest_is_text():
    template = {**LINES, "fields": {"content": {}, "thinking": {"open_pattern": r"(a|aa|a?)+b(?=c)", "close": "!"}}}
    text = "a" * 200 + " then c"
    assert read(own(template), text) == Answer(text)


@pytest.mark.parametrize(
    ("chat_template", "name"),
    [
        ("{% if tools %}<tool_call>{{ tools }}</tool_call>{% endif %}", "hermes"),
        ("<tool_call><function=example></function></tool_call>", "qwen3_coder"),
        ("<tool_call>[{}]</tool_call>", "smollm"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral"),
        ("<|python_tag|>{}", "llama3_json"),
        ("[func_name1(params_name1=params_value1...)]", "llama_pythonic"),
        ("<|tool|><|/tool|>", "phi4"),
        ("<|start|>assistant<|channel|>final<|message|>", "harmony"),
        ("no tools here", DEFAULT),
        (None, DEFAULT),
    ],
)
def test_the_chat_template_tells_the_format(chat_template: str | None, name: str):
    assert format_of(chat_template).name == name


def test_a_format_is_had_by_the_names_that_others_have_for_it():
    assert {format_of("<|python_tag|>", None, name).name for name in NAMES} == set(BUILT_IN)
    assert format_of("<think>", {"fields": 1}, "openai").name == SYNONYMS["openai"] == "harmony"
    with pytest.raises(ConfigError, match=r"no format 'klingon'.*hermes"):
        format_of(None, None, "klingon")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fields": {}}, "fields"),
        ({"start_anchor": None}, "start_anchor"),
        ({"surprise": 1}, "surprise"),
        ({"version": 2}, "version"),
        ({"fields": {"content": {}, "thinking": {}}}, "more than one field"),
        ({"fields": {"thinking": {"open": "<t>", "open_pattern": "<t>"}}}, "both"),
        ({"fields": {"thinking": {"open_pattern": "(<t>"}}}, "no pattern"),
        ({"fields": {"thinking": {"open_pattern": "((a{1000}){1000}){1000}"}}}, "repeats over"),
        ({"fields": {"thinking": {"open_pattern": "a" * 10_000}}}, "over 2000 characters"),
        ({"fields": {"thinking": {"open": ""}}}, "open must be texts"),
        ({"fields": {"tool_calls": {"open": "<c>", "content": "yaml"}}}, "'yaml'"),
        ({"fields": {"tool_calls": {"open": "<c>", "content": "json", "transform": {"function": 1}}}}, "function"),
        ({"fields": {"tool_calls": {"content": "json"}}}, "nothing opens it"),
        ({"fields": {"tool_calls": "json"}}, "must be an object"),
    ],
)
def test_a_malformed_template_is_warned_of_and_the_chat_templates_format_is_taken(
    change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        assert format_of("[TOOL_CALLS]", {**COHERE, **change}).name == "mistral"
    assert words in caplog.text
    assert "--tool-parser" in caplog.text
    with pytest.raises(ValueError, match=words):
        read_response_template({**COHERE, **change})
    assert format_of("[TOOL_CALLS]", COHERE).name == OWN


@pytest.mark.parametrize(
    "template", [None, [], "x", 3, {"fields": [1]}, {"start_anchor": "a", "fields": {"content": [3]}}]
)
def test_anything_may_stand_where_a_template_should(template: Any):
    assert format_of(None, template).name == DEFAULT


def test_a_string_without_an_end_is_passed_over_once():
    """Trying each of its quotes as the beginning of another takes minutes."""
    text = '<|tool_call>call:search{query:"' + '\\"' * 100_000 + "<tool_call|>"
    assert read(own(GEMMA), text).calls == []
