"""The real model with its weights in 4 bits as its file has them."""

from octavo import LLM, SamplingParams

PROMPTS = ["The capital of France is", "Water boils at", "def add(a, b):", "Once upon a time there was"]
NUM_TOKENS = 24


def test_greedy_tokens_are_those_of_the_widened_weights_but_for_close_calls(smollm2: LLM) -> None:
    outputs = smollm2.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=NUM_TOKENS), use_tqdm=False)
    texts = [[*(output.prompt_token_ids or []), *output.outputs[0].token_ids] for output in outputs]
    with LLM("smollm2", dtype="float32", quantization="auto", kv_cache_memory="16MiB", max_model_len=128) as kept:
        assert kept.loaded.weights == "4-bit+8-bit"
        assert kept.loaded.weight_bytes < smollm2.loaded.weight_bytes / 5
        scored = kept.generate(texts, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1), use_tqdm=False)
    ranks = [
        entry[token].rank
        for text, answer in zip(texts, scored, strict=True)
        for token, entry in list(zip(text, answer.prompt_logprobs or [], strict=True))[-NUM_TOKENS:]
        if entry is not None
    ]
    assert len(ranks) == NUM_TOKENS * len(PROMPTS)
    assert sum(rank == 1 for rank in ranks) > 0.9 * len(ranks)
