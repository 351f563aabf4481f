"""The fields of a body that say how the model thinks before it answers: OpenAI's, and those of other servers."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from octavo.server.errors import ApiError
from octavo.server.openai.body import MAX_WHOLE, Text, Whole
from octavo.server.reasoning import ReasoningAsk, one_ask

Budget = Whole


class ReasoningFields(BaseModel):
    """For bodies that ask for the next turn of a conversation."""

    reasoning_effort: Text | None = Field(
        None, description='for chat templates that know it: "low", "medium", "high"; "none" asks not to think'
    )
    enable_thinking: bool | None = Field(None, description="think before the answer, or not; Qwen's")
    think: bool | str | None = Field(None, description="as enable_thinking, or as reasoning_effort; Ollama's")
    thinking: dict[str, Any] | bool | None = Field(
        None, description='{"type": "enabled", "budget_tokens": ...}, or {"type": "disabled"}; Anthropic\'s'
    )
    reasoning: dict[str, Any] | None = Field(
        None, description='{"effort", "max_tokens", "enabled", "exclude"}; OpenRouter\'s'
    )
    thinking_token_budget: Budget | None = Field(
        None, ge=0, le=MAX_WHOLE, description="tokens of reasoning, after which its section is closed; vLLM's"
    )
    thinking_budget: Budget | None = Field(None, ge=0, le=MAX_WHOLE, description="as thinking_token_budget; Qwen's")
    reasoning_budget: Budget | None = Field(
        None, ge=-1, le=MAX_WHOLE, description="as thinking_token_budget, -1 for none; llama.cpp's"
    )
    thinking_budget_tokens: Budget | None = Field(
        None, ge=-1, le=MAX_WHOLE, description="as reasoning_budget; llama.cpp's"
    )
    include_reasoning: bool | None = Field(None, description="tell the reasoning; the default")
    separate_reasoning: bool | None = Field(
        None, description="tell the reasoning apart, as reasoning_content; the default; else it is in content. SGLang's"
    )
    reasoning_format: Literal["auto", "deepseek", "none"] | None = Field(
        None, description='"none" is separate_reasoning false; llama.cpp\'s'
    )

    def reasoning_ask(self) -> ReasoningAsk:
        """What they ask for together.

        Raises:
            ApiError: a field is wrong, or two do not agree.
        """
        asked = {
            "reasoning_effort": _effort("reasoning_effort", self.reasoning_effort),
            "enable_thinking": _switch("enable_thinking", self.enable_thinking),
            "think": _effort("think", self.think) if isinstance(self.think, str) else _switch("think", self.think),
            "thinking": _of_thinking(self.thinking),
            "reasoning": None if self.reasoning is None else _of_reasoning(self.reasoning),
            **{name: _of_budget(name, getattr(self, name)) for name in _BUDGETS},
            "include_reasoning": None if self.include_reasoning is not False else ReasoningAsk(is_told=False),
            "separate_reasoning": None if self.separate_reasoning is not False else ReasoningAsk(is_told_apart=False),
            "reasoning_format": ReasoningAsk(is_told_apart=False) if self.reasoning_format == "none" else None,
        }
        return one_ask({field: ask for field, ask in asked.items() if ask is not None})


_BUDGETS = ("thinking_token_budget", "thinking_budget", "reasoning_budget", "thinking_budget_tokens")


def _effort(field: str, effort: str | None) -> ReasoningAsk | None:
    return None if effort is None else ReasoningAsk(field=field, effort=effort)


def _switch(field: str, enabled: bool | None) -> ReasoningAsk | None:
    return None if enabled is None else ReasoningAsk(field=field, enabled=enabled)


def _of_budget(field: str, tokens: int | None) -> ReasoningAsk | None:
    return None if tokens is None or tokens < 0 else ReasoningAsk(field=field, max_tokens=tokens)


def _of_thinking(given: dict[str, Any] | bool | None) -> ReasoningAsk | None:
    if given is None or isinstance(given, bool):
        return _switch("thinking", given)
    kind, budget = given.get("type"), given.get("budget_tokens")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise ApiError(400, 'thinking.type must be "enabled", "adaptive" or "disabled"', param="thinking")
    _check_budget("thinking.budget_tokens", budget)
    enabled = {"enabled": True, "disabled": False}.get(kind)
    return ReasoningAsk(field="thinking", enabled=enabled, max_tokens=budget if kind == "enabled" else None)


def _of_reasoning(given: dict[str, Any]) -> ReasoningAsk | None:
    effort, budget, enabled, excluded = (given.get(key) for key in ("effort", "max_tokens", "enabled", "exclude"))
    if effort is not None and not isinstance(effort, str):
        raise ApiError(400, "reasoning.effort must be a text", param="reasoning")
    for name, value in (("enabled", enabled), ("exclude", excluded)):
        if value is not None and not isinstance(value, bool):
            raise ApiError(400, f"reasoning.{name} must be true or false", param="reasoning")
    _check_budget("reasoning.max_tokens", budget)
    return ReasoningAsk(
        field="reasoning", effort=effort, max_tokens=budget, enabled=enabled, is_told=excluded is not True
    )


def _check_budget(place: str, budget: Any) -> None:
    good = budget is None or (isinstance(budget, int) and not isinstance(budget, bool) and 0 <= budget <= MAX_WHOLE)
    if not good:
        raise ApiError(400, f"{place} must be a whole number of at least 0", param=place.partition(".")[0])
