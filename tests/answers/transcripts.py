"""Answers as models of each format write them: well-formed ones from what they say, and malformed ones from those."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from octavo.answers.tools import Tool, ToolUse

TEXT = {"type": "string"}
TOOLS = (
    Tool("get_weather", None, {"type": "object", "properties": {"city": TEXT, "days": {"type": "integer"}}}),
    Tool(
        "search",
        "Looks things up.",
        {
            "type": "object",
            "properties": {
                "query": TEXT,
                "limit": {"type": "integer"},
                "score": {"type": "number"},
                "exact": {"type": "boolean"},
                "tags": {"type": "array", "items": TEXT},
                "filters": {"anyOf": [{"type": "object"}, {"type": "null"}]},
            },
        },
    ),
    Tool("write_file", None, {"type": "object", "properties": {"path": TEXT, "content": TEXT}}),
    Tool("now"),
)
USE = ToolUse(TOOLS)

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Said:
    """What an answer says."""

    calls: tuple[Call, ...] = ()
    before: str = ""
    behind: str = ""
    reasoning: str = ""


CODE = 'def f(x):\n    """Doc; and a \'quote\'."""\n    return {"a": [x, -1]}  # </done> [0]\n'
SAID = (
    Said((("get_weather", {"city": "Paris"}),)),
    Said((("get_weather", {"city": "Paris", "days": 3}),)),
    Said((("now", {}),)),
    Said((("now", {}), ("now", {}))),
    Said((("get_weather", {"city": "São Paulo 🌧️ 東京"}), ("get_weather", {"city": "Oslo", "days": -2}))),
    Said((("search", {"query": 'say "hi" \\ or / not'}),), before="Let me look."),
    Said((("search", {"query": "a", "limit": 10, "score": 0.25, "exact": True}),)),
    Said((("search", {"query": "a", "exact": False, "filters": None}),)),
    Said((("search", {"query": "", "tags": []}),)),
    Said((("search", {"query": "x", "tags": ["a", "b c", "{d}"], "filters": {}}),)),
    Said((("search", {"query": "x", "filters": {"a": {"b": [1, {"c": None}], "d": "}"}, "e": 1.5e10}}),)),
    Said((("write_file", {"path": "/tmp/a b.py", "content": CODE}),)),
    Said((("write_file", {"path": "a", "content": "tab\tline\nend"}), ("now", {}), ("get_weather", {"city": "Rom"}))),
    Said((("write_file", {"path": "long", "content": "words and more words, " * 40}),)),
    Said((("get_weather", {"city": "Bern"}),), before="I will check the weather: one moment"),
    Said((("now", {}),), before="First.\n\nThen <b>this</b> & that"),
    Said((("get_weather", {"city": "Bern"}),), behind="Done."),
    Said(before="No call at all. 2 < 3, a[0] is fine; x = y"),
    Said(before="Über 50 % of 🦊s like ∑ and \u200b"),
    Said((("get_weather", {"city": "Bern"}),), reasoning="They ask for the weather in Bern."),
    Said(before="It is 4.", reasoning="2 + 2\n\n= 4, isn't it?"),
    Said((("now", {}), ("now", {})), before="Both.", reasoning="Need the time twice."),
)


@dataclass(frozen=True)
class Form:
    """How one format is written.

    Args:
        calls: several calls, with what stands around each.
        chat_template: a text of the chat template that tells the format, with its reasoning.
    """

    name: str
    calls: Callable[[Sequence[Call]], str]
    chat_template: str
    think: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    text: tuple[str, str] = ("", "")
    field: int = 0
    """Which of the format's fields of calls this is."""
    unfinished: Sequence[str] = ()
    """Beginnings of calls that become none."""

    def write(self, said: Said) -> str:
        """The answer."""
        reasoning = f"{self.think[0]}{said.reasoning}{self.think[1]}" if said.reasoning else ""
        calls = self.calls(said.calls) if said.calls else ""
        before, behind = (
            "".join((self.text[0], text, self.text[1])) if text else "" for text in (said.before, said.behind)
        )
        return reasoning + before + ("\n" if before and calls and not self.text[0] else "") + calls + behind


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _objects(calls: Sequence[Call], key: str = "arguments") -> list[str]:
    return [as_json({"name": name, key: arguments}) for name, arguments in calls]


def _tagged(call: Call) -> str:
    values = ((k, v if isinstance(v, str) else json.dumps(v)) for k, v in call[1].items())
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values)
    return f"<tool_call>\n<function={call[0]}>\n{parameters}</function>\n</tool_call>"


def _python(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"


def _harmony(call: Call) -> str:
    return f"<|channel|>commentary to=functions.{call[0]} <|constrain|>json<|message|>{as_json(call[1])}<|call|>"


FORMS = (
    Form(
        "hermes",
        lambda calls: "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in _objects(calls)),
        "<think> <tool_call>",
        unfinished=(
            "<tool_call>",
            '<tool_call>\n{"na',
            "<tool_call>{name: 1}</tool_call>",
            "<tool_call>[]</tool_call>",
        ),
    ),
    Form(
        "smollm",
        lambda calls: f"<tool_call>[{', '.join(_objects(calls))}]</tool_call>",
        "<think> <tool_call>[",
        unfinished=('<tool_call>[{"x": 1}]</tool_call>', "<tool_call>[1]", "<tool_call>now()</tool_call>"),
    ),
    Form(
        "llama3_json",
        lambda calls: "; ".join(_objects(calls, "parameters")),
        "<think> <|python_tag|>",
        unfinished=('{"a": 1}', "{", '{"name": "f", "parameters": {}}', "<|python_tag|>print(1)", '{"name": 3}'),
    ),
    Form(
        "llama_pythonic",
        lambda calls: f"[{', '.join(map(_python, calls))}]",
        "<think> [func_name1(",
        unfinished=("[1, 2]", "[f(x)]", "[now", "[now ()]", "<|python_start|>now()"),
    ),
    Form(
        "mistral",
        lambda calls: f"[TOOL_CALLS] [{', '.join(_objects(calls))}]",
        "[THINK] [TOOL_CALLS]",
        think=("[THINK]", "[/THINK]"),
        unfinished=("[TOOL_CALLS] []", '[TOOL_CALLS][{"name": "f"}]', "[TOOL_CALLS] none"),
    ),
    Form(
        "mistral",
        lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{as_json(arguments)}" for name, arguments in calls),
        "[THINK] [TOOL_CALLS] [ARGS]",
        think=("[THINK]", "[/THINK]"),
        field=1,
        unfinished=("[TOOL_CALLS]f[ARGS]{}", "[TOOL_CALLS]now[ARGS]", "[TOOL_CALLS]now[CALL_ID]", "[TOOL_CALLS]now"),
    ),
    Form(
        "phi4",
        lambda calls: f"<|tool_call|>[{', '.join(_objects(calls))}]<|/tool_call|>",
        "<think> <|tool_call|>",
        unfinished=("<|tool_call|>", "<|tool_call|>[]<|/tool_call|>", "functools", "functools[1]"),
    ),
    Form(
        "phi4",
        lambda calls: f"functools[{', '.join(_objects(calls))}]",
        "<think> functools[",
        unfinished=('functools[{"name": "f", "arguments": {}}]',),
    ),
    Form(
        "qwen3_coder",
        lambda calls: "\n".join(map(_tagged, calls)),
        "<think> <function=",
        unfinished=("<tool_call>", "<tool_call>\n<function=", "<function=f></function>", "<tool_call>now</tool_call>"),
    ),
    Form(
        "harmony",
        lambda calls: "<|start|>assistant".join(map(_harmony, calls)),
        "<|channel|>",
        think=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        text=("<|channel|>final<|message|>", "<|end|>"),
        unfinished=("<|channel|>commentary to=functions.f<|message|>{}", "<|channel|>", "<|channel|>x<|message|>y"),
    ),
)


def malformed(form: Form) -> Iterator[str]:
    """Answers that are not as they should be, in many ways."""
    call = form.calls([("get_weather", {"city": "Paris", "days": 3})])
    half = len(call) // 2
    yield from form.unfinished
    yield from (f"Text. {each} More text." for each in form.unfinished)
    yield form.calls([("unknown_tool", {"a": "b"})])
    yield form.calls([("unknown_tool", {}), ("now", {})])
    yield form.calls([("now", {}), ("unknown_tool", {})])
    yield call.replace("get_weather", "")
    yield from (call[:at] for at in (half - 9, half, half + 5, len(call) - 1))
    yield call + call[:half]
    yield call[:half] + call
    yield call[:half] + " and then " + call[half:]
    yield call[half:]
    yield call + "}]" + call
    yield call.replace('"', "'")
    yield call.replace('"', "").replace("'", "")
    yield call.replace("3", "3 4 ]}").replace("Paris", "Pa\nris")
    yield f"   \n{call}\n\n  {call}\n"
    yield form.write(Said(reasoning="never ends")).removesuffix(form.think[1])
    yield f"</think> {call} </think>"
