"""The prefix cache changes when tokens come, never which."""

from pathlib import Path
from typing import Any

import pytest

from e2e.sized_pools import open_with_blocks
from octavo import LLM, SamplingParams
from octavo.errors import ConfigError, RequestError
from tiny_checkpoints import make_llama

PRECISIONS: dict[str, dict[str, Any]] = {
    "float64 on the reference": {"dtype": "float64"},
    "int8 on C++": {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"},
}
GREEDY = SamplingParams(temperature=0, max_tokens=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(
        tmp_path_factory.mktemp("tiny"), hidden_size=96, num_attention_heads=6, max_position_embeddings=512
    )


def open_tiny(folder: Path, **knobs: Any) -> LLM:
    return LLM(str(folder), **{"tokenizer": "smollm2", "kv_cache_memory": "8MiB", "dtype": "float32", **knobs})


def num_cached(llm: LLM, prompt: Any, params: SamplingParams = GREEDY) -> int:
    [output] = llm.generate([prompt], params, use_tqdm=False)
    return output.metrics.memory.num_cached_tokens


def conversations(llm: LLM) -> list[list[list[int]]]:
    """Six chats of four turns behind one system prompt, side by side: greedy, sampled and n=3 turns."""
    system = [(5 * i) % 90 for i in range(70)]
    histories = [[*system, *([chat] * (3 + 5 * chat))] for chat in range(6)]
    said = []
    for turn in range(4):
        params = [
            SamplingParams(
                temperature=0.0 if chat % 2 else 0.8, n=3 if chat == 4 else 1, max_tokens=21, seed=turn, ignore_eos=True
            )
            for chat in range(6)
        ]
        outputs = llm.generate(histories, params, use_tqdm=False)
        said.append([each.token_ids for output in outputs for each in output.outputs])
        histories = [
            [*history, *output.outputs[-1].token_ids, turn + 1, turn + 2]
            for history, output in zip(histories, outputs, strict=True)
        ]
    return said


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_blocks", [2000, 45], ids=["roomy", "tight"])
def test_chats_get_the_same_tokens_with_the_cache_on_and_off(tiny: Path, precision: str, num_blocks: int) -> None:
    knobs = PRECISIONS[precision]
    with open_tiny(tiny, prefix_cache_scope="off", **knobs) as off:
        wanted = conversations(off)
        assert off.ledger().totals.num_hit_tokens == 0
    with open_with_blocks(tiny, num_blocks, max_model_len=400, **knobs) as on:
        assert conversations(on) == wanted
        totals = on.ledger().totals
        assert totals.num_hit_tokens > totals.num_queried_tokens / 4
        assert (totals.num_preemptions > 0) == (num_blocks < 100)


def test_a_hit_leaves_at_least_the_last_token_to_compute(tiny: Path) -> None:
    with open_tiny(tiny) as llm:
        assert [num_cached(llm, [7] * 40) for _ in range(2)] == [0, 32]
        assert num_cached(llm, [7] * 33) == 32
        assert num_cached(llm, [7] * 32) == 16
        assert num_cached(llm, [7] * 16) == 0
        assert num_cached(llm, [7] * 40, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)) == 0


def test_a_salt_is_shared_with_the_same_salt_only(tiny: Path) -> None:
    with open_tiny(tiny) as llm:
        salted = {"prompt_token_ids": [7] * 40, "cache_salt": "a"}
        assert num_cached(llm, salted) == num_cached(llm, [7] * 40) == 0
        assert num_cached(llm, salted) == 32
        assert num_cached(llm, salted | {"cache_salt": "b"}) == 0
        with pytest.raises(RequestError, match="cache_salt"):
            llm.generate([salted | {"cache_salt": ""}], use_tqdm=False)


def test_a_pinned_prefix_is_there_for_the_first_request_and_after_any_traffic(tmp_path: Path) -> None:
    text = "You are a helpful assistant who answers in short sentences. " * 12
    (tmp_path / "system.txt").write_text(text)
    pins = (str(tmp_path / "system.txt"),)
    with LLM("smollm2", quantization="int8", kv_cache_memory="16MiB", max_model_len=512, pin_prefix=pins) as llm:
        num_pinned = llm.ledger().num_pinned_blocks
        assert num_pinned == len(llm.tokenizer.encode(text)) // 16
        for _ in range(2):
            for salt in ("a", "b"):
                assert num_cached(llm, {"prompt": text + "What is rain?", "cache_salt": salt}) >= num_pinned * 16
            llm.generate([[i] * 300 for i in range(4)], SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)
        assert llm.ledger().num_used_blocks == num_pinned
        params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
        [pinned] = llm.generate([text + "What is snow?"], params, use_tqdm=False)
    with LLM("smollm2", quantization="int8", kv_cache_memory="16MiB", max_model_len=512) as llm:
        assert llm.generate([text + "What is snow?"], params, use_tqdm=False)[0].outputs == pinned.outputs


def test_a_pin_that_cannot_be_kept_is_refused_with_numbers(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 2000)
    (tmp_path / "short.txt").write_text("word")
    with pytest.raises(ConfigError, match=r"long\.txt takes \d+ KV blocks of 16 tokens.*pool's \d+.*--kv-cache-memory"):
        LLM("smollm2", quantization="int8", kv_cache_memory="16MiB", pin_prefix=(str(tmp_path / "long.txt"),))
    with pytest.raises(ConfigError, match=r"short\.txt has 1 tokens, less than a block of 16"):
        LLM("smollm2", quantization="int8", kv_cache_memory="16MiB", pin_prefix=(str(tmp_path / "short.txt"),))
    with pytest.raises(ConfigError, match=r"--pin-prefix .*absent\.txt cannot be read"):
        LLM("smollm2", quantization="int8", kv_cache_memory="16MiB", pin_prefix=(str(tmp_path / "absent.txt"),))
