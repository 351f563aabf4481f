"""From logits to tokens, a batch at a time: penalties, masks, truncation, counter-based randomness, logprobs."""

from octavo.sampling.logprobs import score_prompt
from octavo.sampling.sampler import SampleResult, TokenHistory, sample
from octavo.sampling.table import SamplingTable

__all__ = ["SampleResult", "SamplingTable", "TokenHistory", "sample", "score_prompt"]
