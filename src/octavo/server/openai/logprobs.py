"""Log-probabilities in the three forms that the API has for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from octavo.outputs import Logprob
from octavo.sampling_params import ALL_TOKENS
from octavo.server.openai.answers import (
    ChatLogprobs,
    ContentLogprob,
    PromptLogprob,
    PromptLogprobs,
    TextLogprobs,
    TopLogprob,
)
from octavo.tokenization.detokenizer import Detokenizer
from octavo.tokenization.tokenizer import Tokenizer

IMPOSSIBLE = -9999.0
"""What OpenAI sends for a probability of zero, whose logarithm JSON cannot write."""

PositionLogprobs = Mapping[int, Logprob]
"""By token id: the position's own token first, then the most likely ones in order, or those that were named."""


@dataclass(frozen=True, slots=True)
class TokenNames:
    """What tokens are called in logprobs.

    Args:
        as_ids: `token_id:N` in place of their text.
    """

    tokenizer: Tokenizer
    as_ids: bool = False

    def __getitem__(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self.as_ids else self.tokenizer.token_text(token_id)


def chat_logprobs(names: TokenNames, positions: Sequence[PositionLogprobs], num_top: int) -> ChatLogprobs:
    """Those of a chat answer: each token with its `num_top` most likely alternatives, -1 being all."""
    return ChatLogprobs([_content_logprob(names, candidates, num_top) for candidates in positions])


def _content_logprob(names: TokenNames, candidates: PositionLogprobs, num_top: int) -> ContentLogprob:
    entries = [(TopLogprob(*_parts(names, token, each)), each.rank) for token, each in candidates.items()]
    own = entries[0][0]
    best = sorted(entries, key=lambda entry: entry[1])
    shown = best if num_top == ALL_TOKENS else best[:num_top]
    return ContentLogprob(own.token, own.logprob, own.bytes, [entry for entry, _ in shown])


def _parts(names: TokenNames, token_id: int, candidate: Logprob) -> tuple[str, float, list[int]]:
    return names[token_id], _finite(candidate.logprob), list(names.tokenizer.token_bytes[token_id])


def prompt_logprobs(positions: Sequence[PositionLogprobs | None]) -> PromptLogprobs:
    """Those of a prompt, in vLLM's form."""
    return [
        None
        if candidates is None
        else {
            token: PromptLogprob(_finite(each.logprob), each.rank, each.decoded_token or "")
            for token, each in candidates.items()
        }
        for candidates in positions
    ]


class TextLogprobsWriter:
    """Those of a completion, piece by piece. An offset is a place in the text that is sent: it moves on by what each
    token adds there, which is nothing for a special token that is left out.

    Args:
        names: what tokens are called.
        skip_special_tokens: leave them out of the answer's text.
    """

    def __init__(self, names: TokenNames, skip_special_tokens: bool) -> None:
        self._names = names
        self._detokenizer = names.tokenizer.stream(skip_special_tokens, continues=True)
        self._offset = 0

    def write(self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None]) -> TextLogprobs:
        """The next tokens' entries."""
        return self._entries(token_ids, positions, self._detokenizer)

    def write_prompt(
        self, text: str, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None]
    ) -> TextLogprobs:
        """The entries of the prompt that the answer begins with. Its first token has no probability."""
        tokenizer = self._names.tokenizer
        num_added = 0
        for token_id in token_ids:  # those that the tokenizer has put before the text
            if not tokenizer.token_bytes.is_special(token_id) or text.startswith(tokenizer.token_text(token_id)):
                break
            num_added += 1
        added = self._entries(token_ids[:num_added], positions[:num_added], tokenizer.stream(skip_special_tokens=True))
        own = self._entries(token_ids[num_added:], positions[num_added:], tokenizer.stream(skip_special_tokens=False))
        self._offset = len(text)
        return joined(added, own)

    def _entries(
        self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None], detokenizer: Detokenizer
    ) -> TextLogprobs:
        written = TextLogprobs([], [], [], [])
        for token_id, candidates in zip(token_ids, positions, strict=True):
            written.tokens.append(self._names[token_id])
            written.token_logprobs.append(None if candidates is None else _finite(candidates[token_id].logprob))
            written.top_logprobs.append(None if candidates is None else _by_name(self._names, candidates))
            written.text_offset.append(self._offset)
            self._offset += len(detokenizer.push(token_id))
        return written


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Entries of a text and of what follows it."""
    return TextLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )


def _by_name(names: TokenNames, candidates: PositionLogprobs) -> dict[str, float]:
    """Of two tokens with the same text the likelier has its name, the other is named by its id."""
    named: dict[str, float] = {}
    for token_id, each in sorted(candidates.items(), key=lambda item: item[1].rank):
        name = names[token_id]
        named[f"token_id:{token_id}" if name in named else name] = _finite(each.logprob)
    return named


def _finite(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)
