"""Greedy tokens of a model in transformers, one prompt at a time, so that no padding plays a part."""

from typing import Any

from tqdm import tqdm

from octavo.outputs import RequestOutput
from tiny_checkpoints import transformers_logits

TIE = 1e-3
"""Two logits this close may come in either order: the sums behind them run in different orders."""


class GreedyOracle:
    """Whether answers are those that a transformers model gives.

    An answer is one where each of its tokens is the likeliest after those before it. So one forward pass over prompt
    and answer tells, and as much as a generation would.
    """

    def __init__(self, model: Any, num_tokens: int, eos_token_ids: tuple[int, ...]) -> None:
        self.model = model
        self.num_tokens = num_tokens
        self.eos_token_ids = eos_token_ids

    def differing(self, outputs: list[RequestOutput], label: str) -> int:
        """How many outputs differ from transformers'; each must do so at a tie."""
        count = 0
        for number, output in enumerate(tqdm(outputs, desc=label)):
            prompt, got = output.prompt_token_ids, output.outputs[0].token_ids
            logits = transformers_logits(self.model, prompt + got)[len(prompt) - 1 : -1]
            wanted = logits.argmax(dim=-1).tolist()
            at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b), None)
            if at is None:
                ended = [token in self.eos_token_ids for token in got]
                assert len(got) == self.num_tokens or ended[-1], f"prompt {number} ends too early"
                assert not any(ended[:-1]), f"prompt {number} goes on behind its end"
                continue
            gap = abs(float(logits[at, got[at]] - logits[at, wanted[at]]))
            print(f"{label}: prompt {number} differs at token {at}, logits {gap:.2e} apart")
            assert gap < TIE, f"prompt {number} differs at token {at}, where the two logits are {gap} apart"
            count += 1
        return count
