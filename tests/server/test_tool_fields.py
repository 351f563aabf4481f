"""The fields that offer tools and ask for reasoning, without a server."""

from typing import Any

import pytest
from pydantic import ValidationError

from octavo.server.errors import ApiError
from octavo.server.openai.reasoning_fields import ReasoningFields
from octavo.server.openai.responses_tools import tool_use
from octavo.server.openai.tool_fields import ToolFields
from octavo.server.reasoning import ReasoningAsk

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def tool(name: str = "f", **others: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **others}}


def allowed(*names: str | None) -> dict[str, Any]:
    tools = [None if name is None else {"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


@pytest.mark.parametrize(
    ("fields", "choice", "named", "parallel"),
    [
        ({}, "auto", None, True),
        ({"tool_choice": "none"}, "none", None, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, "required", None, False),
        ({"tool_choice": "any"}, "required", None, True),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "required", "g", True),
    ],
)
def test_the_choice_is_read_in_every_form(
    fields: dict[str, Any], choice: str, named: str | None, parallel: bool
) -> None:
    tools = [tool("f", strict=True), tool("g", description="d")]
    use = ToolFields.model_validate({"tools": tools, **fields}).tool_use()
    assert (use.choice, use.named, use.parallel) == (choice, named, parallel)
    assert [(each.name, each.strict, each.description) for each in use.tools] == [("f", True, None), ("g", False, "d")]


def test_a_tool_without_a_type_is_a_function() -> None:
    [read] = ToolFields.model_validate({"tools": [{"function": {"name": "f"}}]}).tool_use().tools
    assert read.name == "f"


def test_allowed_tools_are_the_only_ones() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "name": "g"}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    use = ToolFields.model_validate({"tools": [tool("f"), tool("g")], "tool_choice": choice}).tool_use()
    assert [each.name for each in use.tools] == ["g"]
    assert use.must_call


def test_names_of_tools_are_compared_with_each_other_once() -> None:
    """Of twenty thousand a comparison of each with each takes minutes."""
    names = [f"f{number}" for number in range(20_000)]
    tools = [{"type": "function", "name": name} for name in names]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": tools}
    assert len(tool_use(tools, choice, parallel=True).tools) == len(names)


def test_texts_that_cannot_be_encoded_are_refused_with_their_field() -> None:
    with pytest.raises(ValidationError, match="tools"):
        ToolFields.model_validate({"tools": [tool(description="\ud800")]})


def test_the_older_form_calls_one_function_at_most() -> None:
    body = ToolFields.model_validate({"functions": [{"name": "f"}], "function_call": {"name": "f"}})
    use = body.tool_use()
    assert body.calls_as_functions
    assert (use.choice, use.named, use.parallel) == ("required", "f", False)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"name": "f", "parameters": {}}]}, "tools[0].function must be an object such as"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "'custom'"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("f", parameters="x")]}, "tools[0].function.parameters"),
        ({"tools": [tool("f", parameters={"type": "array"})]}, 'of type "object"'),
        ({"tools": [tool("f", strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [tool("f", description=3)]}, "tools[0].function.description"),
        ({"tools": [tool(), tool()]}, "'f'"),
        ({"tools": [tool()], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "'g'"),
        ({"tools": [tool()], "functions": [{"name": "f"}]}, "functions"),
        ({"tools": [tool()], "tool_choice": allowed("f", "g")}, "'g'"),
        ({"tools": [tool()], "tool_choice": allowed(None)}, "allowed_tools.tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as refusal:
        ToolFields.model_validate(fields).tool_use()
    assert refusal.value.status == 400
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "ask"),
    [
        ({}, ReasoningAsk()),
        ({"reasoning_effort": "low"}, ReasoningAsk(effort="low")),
        ({"think": False}, ReasoningAsk(field="think", enabled=False)),
        ({"think": "high"}, ReasoningAsk(field="think", effort="high")),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
            ReasoningAsk(field="thinking", enabled=True, max_tokens=9),
        ),
        ({"reasoning_budget": -1}, ReasoningAsk()),
        ({"reasoning": {"exclude": True}}, ReasoningAsk(field="reasoning", is_told=False)),
        ({"reasoning_format": "none"}, ReasoningAsk(is_told_apart=False)),
        (
            {"enable_thinking": True, "thinking_budget": 4},
            ReasoningAsk(field="enable_thinking", enabled=True, max_tokens=4),
        ),
    ],
)
def test_reasoning_is_asked_for_in_many_words(fields: dict[str, Any], ask: ReasoningAsk) -> None:
    asked = ReasoningFields.model_validate(fields).reasoning_ask()
    for name in ("enabled", "effort", "max_tokens", "is_told", "is_told_apart"):
        assert getattr(asked, name) == getattr(ask, name), name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"think": True, "enable_thinking": False}, "enable_thinking and think"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"thinking": {"type": "loud"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
    ],
)
def test_reasoning_that_does_not_agree_or_is_malformed_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as refusal:
        ReasoningFields.model_validate(fields).reasoning_ask()
    assert told in str(refusal.value)
