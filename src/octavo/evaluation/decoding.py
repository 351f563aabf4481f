"""How the requests of an experiment get their sequences: one each, parallel samples, or beams (paper, section 6.3)."""

from typing import Literal, get_args

import msgspec

from octavo.sampling_params import BeamSearchParams, SamplingParams

Method = Literal["parallel", "beam"]
METHODS: tuple[Method, ...] = get_args(Method)


class Decoding(msgspec.Struct, frozen=True):
    """So many sequences a request; greedy where that is one."""

    method: Method = "parallel"
    num_sequences: int = 1
    """Samples, or beams."""

    def params(self, max_tokens: int) -> SamplingParams:
        """Of a request that gets this many tokens a sequence, past any end-of-sequence token."""
        if self.method == "beam":
            search = BeamSearchParams(beam_width=self.num_sequences, max_tokens=max_tokens, ignore_eos=True)
            return search.sampling_params()
        temperature = 0.0 if self.num_sequences == 1 else 1.0
        return SamplingParams(n=self.num_sequences, temperature=temperature, max_tokens=max_tokens, ignore_eos=True)


ONE_SEQUENCE = Decoding()
