"""Greedy tokens of a model in transformers, one prompt at a time, so that no padding plays a part."""

from typing import Any

import torch
from tqdm import tqdm

from octavo.outputs import RequestOutput

TIE = 1e-3
"""Two logits this close may come in either order: the sums behind them run in different orders."""


class GreedyOracle:
    """What a transformers model answers; each prompt is computed once."""

    def __init__(self, model: Any, num_tokens: int, eos_token_ids: tuple[int, ...]) -> None:
        self.model = model
        self.num_tokens = num_tokens
        self.eos_token_ids = list(eos_token_ids)
        self._known: dict[tuple[int, ...], list[int]] = {}

    @torch.inference_mode()
    def generate(self, prompt: list[int]) -> list[int]:
        """The tokens after a prompt."""
        if tuple(prompt) not in self._known:
            ids, eos = torch.tensor([prompt]), self.eos_token_ids
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.num_tokens,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=eos[0],
            )
            self._known[tuple(prompt)] = output[0, len(prompt) :].tolist()
        return self._known[tuple(prompt)]

    def differing(self, outputs: list[RequestOutput], label: str) -> int:
        """How many outputs differ from transformers'; each must do so at a tie."""
        count = 0
        for number, output in enumerate(tqdm(outputs, desc=label)):
            got, wanted = output.outputs[0].token_ids, self.generate(output.prompt_token_ids)
            if got == wanted:
                continue
            at = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
            logits = self._next_logits(output.prompt_token_ids + wanted[:at])
            gap = abs(float(logits[got[at]] - logits[wanted[at]]))
            print(f"{label}: prompt {number} differs at token {at}, logits {gap:.2e} apart")
            assert gap < TIE, f"prompt {number} differs at token {at}, where the two logits are {gap} apart"
            count += 1
        return count

    @torch.inference_mode()
    def _next_logits(self, token_ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self.model(torch.tensor([token_ids])).logits[0, -1]
        return logits
