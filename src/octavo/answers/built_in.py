"""How the well-known kinds of models write calls and reasoning, as response templates.

The forms are those of the models' own chat templates and cards: Qwen 2.5 and 3 (after Nous Hermes), Qwen3-Coder and
3.5, SmolLM 2 and 3, Llama 3.x and 4, Mistral up to and from version 11 of its tokenizer, Phi-4-mini, and gpt-oss
("OpenAI harmony response format").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.answers.writing import Writing

Json = Mapping[str, Any]

PROMPT_ENDS = [
    "<|im_start|>assistant",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<|header_start|>assistant<|header_end|>",
    "[/INST]",
    "<|assistant|>",
    "<｜Assistant｜>",
    "<start_of_turn>model",
    "<|start|>assistant",
]
"""What chat templates end prompts with: an answer begins behind the last of these."""
_CALL = {"type": "function", "function": "{content}"}
_NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
_OF_LIST = {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A way to write calls."""

    calls: list[Json]
    """Fields of a response template: each is a way to write calls."""
    writing: Writing
    told_by: tuple[str, ...]
    """Texts one of which a chat template has whose model writes so."""
    others: Mapping[str, Any] | None = None
    """Further keys of the response template, where the format marks more than calls."""
    written_otherwise: Mapping[str, Writing] = field(default_factory=dict)
    """Another way in which a model writes whose chat template has this text."""

    def writing_of(self, chat_template: str) -> Writing:
        """How the model of a chat template writes calls."""
        return next((each for text, each in self.written_otherwise.items() if text in chat_template), self.writing)


_TAG = r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"
_TAGGED = {"repeats": True, "content": "xml-inline", "content_args": {"tag_pattern": _TAG}, "transform": _NAMED}
_HARMONY_TO = r"to=functions\.(?P<name>[\w.\-]+)"
_HARMONY_END = ["<|end|>", "<|return|>", "<|call|>"]


def _harmony_messages(*channels: str) -> Json:
    """Messages before the last."""
    message = [
        {"type": "const_string", "value": "<|channel|>"},
        {"type": "or", "elements": [{"type": "const_string", "value": name} for name in channels]},
        {"type": "const_string", "value": "<|message|>"},
        {"type": "any_text"},
        {"type": "const_string", "value": "<|end|><|start|>assistant"},
    ]
    return {"type": "star", "content": {"type": "sequence", "elements": message}}


HERMES = BuiltIn(
    calls=[{"open": "<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json", "transform": _CALL}],
    writing=Writing(
        '<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>", between="\n", trigger="<tool_call>"
    ),
    told_by=("<tool_call>",),
)

BUILT_IN: Mapping[str, BuiltIn] = {
    "harmony": BuiltIn(
        calls=[
            {
                "open_pattern": rf"<\|channel\|>\w+ {_HARMONY_TO} ?(?:<\|constrain\|>)?\w*<\|message\|>",
                "close": ["<|call|>", "<|end|>"],
                "repeats": True,
                "content": "json",
                "transform": _NAMED,
            },
            {
                "open_pattern": rf" ?{_HARMONY_TO}<\|channel\|>\w+ ?(?:<\|constrain\|>)?\w*<\|message\|>",
                "close": ["<|call|>", "<|end|>"],
                "repeats": True,
                "content": "json",
                "transform": _NAMED,
            },
        ],
        writing=Writing(
            "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
            "<|call|>",
            between="<|start|>assistant",
            lead="<|start|>assistant",
            preamble=_harmony_messages("analysis", "commentary"),
            silent_preamble=_harmony_messages("analysis"),
            text_opening="<|channel|>final<|message|>",
        ),
        told_by=("<|channel|>",),
        others={
            "start_anchor": "<|start|>assistant",
            "ignored": ["<|start|>assistant"],
            "fields": {
                "thinking": {
                    "open": "<|channel|>analysis<|message|>",
                    "close": _HARMONY_END,
                    "repeats": True,
                    "join": "\n",
                },
                "content": [
                    {
                        "open": ["<|channel|>final<|message|>", "<|channel|>commentary<|message|>"],
                        "close": _HARMONY_END,
                        "repeats": True,
                        "join": "\n",
                    },
                    {},
                ],
            },
        },
    ),
    "qwen3_coder": BuiltIn(
        calls=[
            {"open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\n]+)>", "close": "</tool_call>", **_TAGGED},
            {"open_pattern": r"<function=(?P<name>[^>\n]+)>", "close": "</function>", **_TAGGED},
        ],
        writing=Writing(
            "<tool_call>\n<function={name}>\n",
            "</function>\n</tool_call>",
            "tagged",
            between="\n",
            trigger="<tool_call>",
            not_in_text="<function=",
        ),
        told_by=("<function=",),
    ),
    "mistral": BuiltIn(
        calls=[
            {
                "open_pattern": r"\[TOOL_CALLS\]\s*(?=\[\s*\{)",
                "content": "json",
                "transform_each": True,
                "transform": {**_OF_LIST, "id": "{id}"},
            },
            {
                "open_pattern": r"\[TOOL_CALLS\]\s*(?P<name>[^\s\[\]{}]+)(?:\[CALL_ID\](?P<id>[^\s\[\]{}]+))?"
                r"(?:\[ARGS\])?(?=\s*\{)",
                "repeats": True,
                "content": "json",
                "transform": {**_NAMED, "id": "{id}"},
            },
        ],
        writing=Writing(
            '{"name": "{name}", "arguments": ',
            "}",
            before="[TOOL_CALLS][",
            between=", ",
            behind="]",
            trigger="[TOOL_CALLS]",
        ),
        told_by=("[TOOL_CALLS]",),
        written_otherwise={
            "[CALL_ID]": Writing("[TOOL_CALLS]{name}[CALL_ID]{id}[ARGS]", "", trigger="[TOOL_CALLS]"),
            "[ARGS]": Writing("[TOOL_CALLS]{name}[ARGS]", "", trigger="[TOOL_CALLS]"),
        },
    ),
    "phi4": BuiltIn(
        calls=[
            {
                "open_pattern": r"<\|tool_call\|>|functools\s*(?=\[)",
                "close": "<|/tool_call|>",
                "repeats": True,
                "content": "json",
                "transform_each": True,
                "transform": _OF_LIST,
            }
        ],
        writing=Writing(
            '{"name": "{name}", "arguments": ',
            "}",
            before="<|tool_call|>[",
            between=", ",
            behind="]<|/tool_call|>",
            trigger="<|tool_call|>",
            not_in_text=r"functools\s*\[",
        ),
        told_by=("<|tool_call|>", "<|/tool|>", "functools["),
    ),
    "llama3_json": BuiltIn(
        calls=[
            {
                "open_pattern": r"(?:<\|python_(?:tag|start)\|>\s*)?(?=\{)",
                "close": [";", "<|python_end|>"],
                "repeats": True,
                "content": "json",
                "content_args": {"other_keys": False},
                "transform": {
                    "type": "function",
                    "function": {"name": "{content.name}", "arguments": "{content.parameters}"},
                },
            }
        ],
        writing=Writing(
            '{"name": "{name}", "parameters": ',
            "}",
            between="; ",
            not_in_text=r'\{\s*"(?:type|id|name|arguments|parameters)"',
        ),
        told_by=("<|python_tag|>", '{"name": function name, "parameters":'),
    ),
    "llama_pythonic": BuiltIn(
        calls=[
            {
                "open_pattern": r"(?:<\|python_(?:tag|start)\|>\s*)?(?=\[)",
                "close": "<|python_end|>",
                "content": "python-call-list",
                "transform_each": True,
                "transform": _OF_LIST,
            }
        ],
        writing=Writing(
            "{name}(", ")", "python", before="[", between=", ", behind="]", not_in_text=r"\[\s*(?:{names})\("
        ),
        told_by=("[func_name1(", "[func1(", "<|python_start|>"),
    ),
    "smollm": BuiltIn(
        calls=[
            {
                "open": "<tool_call>",
                "close": "</tool_call>",
                "content": "json",
                "transform_each": True,
                "transform": _OF_LIST,
            }
        ],
        writing=Writing(
            '{"name": "{name}", "arguments": ',
            "}",
            before="<tool_call>[",
            between=", ",
            behind="]</tool_call>",
            trigger="<tool_call>",
        ),
        told_by=("<tool_call>[",),
    ),
    "hermes": HERMES,
}
"""By name, those that are told most surely by a chat template first."""

SYNONYMS = {
    "qwen3_xml": "qwen3_coder",
    "pythonic": "llama_pythonic",
    "llama4_pythonic": "llama_pythonic",
    "llama4_json": "llama3_json",
    "openai": "harmony",
    "gpt_oss": "harmony",
    "phi4_mini_json": "phi4",
}
"""What others call these formats."""

NAMES = (*BUILT_IN, *SYNONYMS)
"""What `--tool-parser` takes beside auto."""

REASONING: Mapping[str, Json] = {
    "</think>": {"open": "<think>", "close": "</think>", "repeats": True, "join": "\n"},
    "<think>": {"open": "<think>", "close": "</think>", "repeats": True, "join": "\n"},
    "[THINK]": {"open": "[THINK]", "close": "[/THINK]", "repeats": True, "join": "\n"},
}
"""Fields of reasoning sections, by a text that the chat templates of such models have."""


def template_of(built_in: BuiltIn, chat_template: str | None) -> Json:
    """The response template of a format, with the reasoning sections that a chat template tells of."""
    reasoning = next((field for text, field in REASONING.items() if text in (chat_template or "")), None)
    others = built_in.others or {}
    fields = {"content": {}, **({"thinking": reasoning} if reasoning is not None else {}), **others.get("fields", {})}
    return {"start_anchor": PROMPT_ENDS, **others, "fields": {**fields, "tool_calls": built_in.calls}}
