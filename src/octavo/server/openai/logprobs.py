"""Log-probabilities in the three forms that the API has for them."""

import codecs
from collections.abc import Mapping, Sequence

from octavo.outputs import Logprob
from octavo.server.openai.answers import (
    ChatLogprobs,
    ContentLogprob,
    PromptLogprob,
    PromptLogprobs,
    TextLogprobs,
    TopLogprob,
)
from octavo.tokenization.tokenizer import Tokenizer

IMPOSSIBLE = -9999.0
"""What OpenAI sends for a probability of zero, whose logarithm JSON cannot write."""

PositionLogprobs = Mapping[int, Logprob]
"""By token id: the position's own token first, then the most likely ones in order."""


def chat_logprobs(tokenizer: Tokenizer, positions: Sequence[PositionLogprobs], num_top: int) -> ChatLogprobs:
    """Those of a chat answer: each token with its `num_top` most likely alternatives."""
    return ChatLogprobs([_content_logprob(tokenizer, candidates, num_top) for candidates in positions])


def _content_logprob(tokenizer: Tokenizer, candidates: PositionLogprobs, num_top: int) -> ContentLogprob:
    entries = [(TopLogprob(*_parts(tokenizer, token, each)), each.rank) for token, each in candidates.items()]
    own = entries[0][0]
    best = sorted(entries, key=lambda entry: entry[1])[:num_top]
    return ContentLogprob(own.token, own.logprob, own.bytes, [entry for entry, _ in best])


def _parts(tokenizer: Tokenizer, token_id: int, candidate: Logprob) -> tuple[str, float, list[int]]:
    return candidate.decoded_token or "", _finite(candidate.logprob), list(tokenizer.token_bytes[token_id])


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
    """Those of a completion, piece by piece: it counts the characters that the tokens before have made."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def write(self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None]) -> TextLogprobs:
        """The next tokens' entries. A token with None, a prompt's first, has no probability."""
        written = TextLogprobs([], [], [], [])
        for token_id, candidates in zip(token_ids, positions, strict=True):
            written.tokens.append(self._tokenizer.token_text(token_id))
            written.token_logprobs.append(None if candidates is None else _finite(candidates[token_id].logprob))
            written.top_logprobs.append(None if candidates is None else _by_text(candidates))
            written.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(self._tokenizer.token_bytes[token_id]))
        return written


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Entries of a text and of what follows it."""
    return TextLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )


def _by_text(candidates: PositionLogprobs) -> dict[str, float]:
    """The likelier of two tokens with the same text is told."""
    by_text: dict[str, float] = {}
    for each in sorted(candidates.values(), key=lambda candidate: candidate.rank):
        by_text.setdefault(each.decoded_token or "", _finite(each.logprob))
    return by_text


def _finite(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)
