"""A beam search's hypotheses as vLLM tells them: behind their prompt."""

from octavo.outputs import BeamSearchSequence, RequestOutput
from octavo.tokenization.tokenizer import Tokenizer


def beam_sequences(output: RequestOutput, tokenizer: Tokenizer) -> list[BeamSearchSequence]:
    """What `RequestOutput.sequences` has of a beam search, best first."""
    prompt = output.prompt if output.prompt is not None else tokenizer.decode(output.prompt_token_ids)
    return [
        BeamSearchSequence(
            tokens=output.prompt_token_ids + beam.token_ids,
            text=prompt + beam.text,
            cum_logprob=beam.cumulative_logprob or 0.0,
            logprobs=beam.logprobs,
            finish_reason=beam.finish_reason,
            stop_reason=beam.stop_reason,
        )
        for beam in output.outputs
    ]
