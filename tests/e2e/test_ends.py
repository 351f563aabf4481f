"""Every token that a model's files call an end ends an answer."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gguf_files import make_gguf
from octavo import LLM, SamplingParams
from tiny_checkpoints import make_llama

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def finish(llm: LLM, token_id: int) -> tuple[str | None, int, str]:
    """How an answer ends that is made to say this token."""
    params = SamplingParams(max_tokens=8, logit_bias={token_id: 100.0})
    output = llm.generate("a", params, use_tqdm=False)[0].outputs[0]
    return output.finish_reason, len(output.token_ids), output.text


def test_a_folders_answers_end_at_the_configs_and_the_tokenizers_end(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(BYTES)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    folder = make_llama(tmp_path, vocab_size=260, bos_token_id=256, eos_token_id=256)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<pad>"}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    with LLM(str(folder), kv_cache_memory="4MiB", num_threads=1) as llm:
        assert [finish(llm, token_id) for token_id in (256, 257)] == [("stop", 1, "")] * 2
        assert finish(llm, 258) == ("length", 8, "")


@pytest.mark.parametrize("marked", [True, False])
def test_a_gguf_files_answers_end_at_the_end_it_names_and_at_those_known_by_their_text(
    tmp_path: Path, marked: bool
) -> None:
    folder = make_llama(tmp_path, vocab_size=260, bos_token_id=256, eos_token_id=258)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*BYTES, "<|endoftext|>", "<|im_start|>", "<|im_end|>", "ab"],
        "tokenizer.ggml.token_type": [1] * 256 + [3 if marked else 1] * 3 + [1],
        "tokenizer.ggml.merges": ["a b"],
    }
    path = make_gguf(tmp_path / "model.gguf", folder, metadata=metadata)
    with LLM(str(path), kv_cache_memory="4MiB", num_threads=1) as llm:
        assert [finish(llm, token_id) for token_id in (256, 258)] == [("stop", 1, "")] * 2
        assert finish(llm, 257)[:2] == ("length", 8)
