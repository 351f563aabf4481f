"""The tokens that mark a reasoning section in one model's vocabulary, as an engine is told of them."""

from collections.abc import Sequence

from octavo.errors import RequestError
from octavo.structured_outputs import ReasoningSection
from octavo.tokenization.tokenizer import Tokenizer

OPENING, END = "<think>", "</think>"
"""What most models that reason write around it."""
TAIL = 16
"""Tokens of a prompt's end among which an opening is looked for: blanks may follow it."""


def reasoning_section(
    tokenizer: Tokenizer, opening: str, end: str, *, is_open: bool, max_tokens: int | None = None
) -> ReasoningSection:
    """A section that is marked by these texts.

    Args:
        is_open: the prompt has opened it.
        max_tokens: of the section.

    Raises:
        RequestError: the end has no tokens, or `max_tokens` is below 0.
    """
    return ReasoningSection(
        opening=tuple(tokenizer.encode(opening, add_special_tokens=False)),
        end=tuple(tokenizer.encode(end, add_special_tokens=False)),
        is_open=is_open,
        max_tokens=max_tokens,
    )


def section_behind(
    tokenizer: Tokenizer, prompt_token_ids: Sequence[int], max_tokens: int | None, *, is_constrained: bool
) -> ReasoningSection | None:
    """The section that an output may begin with behind a prompt, where nothing is known of the model but its tokens:
    one that the prompt has just opened, or one with a bound, which the output may open.

    Args:
        max_tokens: of the section; None where no bound is asked for.
        is_constrained: the output has a grammar.

    Raises:
        RequestError: a bound is asked for, and the model has no token that opens a section.
    """
    if max_tokens is None and not is_constrained:
        return None
    if tokenizer.token_id(OPENING) is None:
        if max_tokens is None:
            return None
        raise RequestError(
            f"thinking_token_budget bounds what a model writes between {OPENING} and {END}, and this one has no token "
            f"{OPENING}: leave it out, max_tokens bounds the whole output"
        )
    tail = tokenizer.decode(prompt_token_ids[-TAIL:], skip_special_tokens=False)
    is_open = tail.rstrip().endswith(OPENING)
    if max_tokens is None and not is_open:
        return None
    return reasoning_section(tokenizer, OPENING, END, is_open=is_open, max_tokens=max_tokens)
