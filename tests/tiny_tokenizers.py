"""Fixtures: small tokenizers of both kinds, made here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from gguf import TokenType
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from octavo.tokenization.tokenizer import Tokenizer

GGUFMaker = Callable[..., None]

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's 12 or 13 years old.",
    "def decode(tokens):\n    return ''.join(table[token] for token in tokens)  # 1024 at most\n",
    "안녕하세요, 세계! 문서의 한 장은 여덟 쪽입니다. 안녕하세요.",
    "🙂 emoji 🙂👍🏽 and accents: café, naïve, über; numbers 3.14159, 2024-05-06.",
    "the the the then there these those other another mother",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def write_gguf() -> GGUFMaker:
    """Writes GGUF files; see `_write_gguf`."""
    return _write_gguf


@pytest.fixture(scope="session")
def byte_level_backend() -> tokenizers.Tokenizer:
    """GPT-2's kind: byte-level BPE, with special tokens and a user's own."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([tokenizers.AddedToken("<think>", normalized=False), "<한글>"])
    return backend


@pytest.fixture(scope="session")
def byte_level_folder(byte_level_backend: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byte_level")
    byte_level_backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "special": True},
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def byte_level(byte_level_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(byte_level_folder)


@pytest.fixture(scope="session")
def sentencepiece_pieces() -> list[tuple[str, TokenType, float]]:
    """A vocabulary as LLaMA's: unknown, BOS, EOS, a user's token, the bytes, then pieces with falling scores."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    latin = [text for text in CORPUS if "한" not in text]
    trained.train_from_iterator(latin, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    learned = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    special = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    return [
        *((text, kind, 0.0) for text, kind in special),
        ("<think>", TokenType.USER_DEFINED, 0.0),
        *((f"<0x{byte:02X}>", TokenType.BYTE, 0.0) for byte in range(256)),
        *((text, TokenType.NORMAL, -float(rank)) for rank, (text, _) in enumerate(learned) if text != "🙂"),
    ]


@pytest.fixture(scope="session")
def sentencepiece(
    sentencepiece_pieces: list[tuple[str, TokenType, float]],
    write_gguf: GGUFMaker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tokenizer:
    path = tmp_path_factory.mktemp("sentencepiece") / "model.gguf"
    tokens, kinds, scores = zip(*sentencepiece_pieces, strict=True)
    write_gguf(path, model="llama", tokens=tokens, token_types=kinds, scores=scores, bos=1, eos=2, unk=0)
    return Tokenizer.from_gguf(path)


@pytest.fixture(scope="session")
def sentencepiece_backend(sentencepiece_pieces: list[tuple[str, TokenType, float]]) -> tokenizers.Tokenizer:
    """The decoding side of the same vocabulary, as a published LLaMA tokenizer.json has it."""
    vocab = {text: index for index, (text, _, _) in enumerate(sentencepiece_pieces)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([tokenizers.AddedToken("<think>", normalized=False)])
    return backend


def _write_gguf(
    path: Path, model: str, tokens: Any, bos: int, eos: int, architecture: str = "llama", **more: Any
) -> None:
    """Write a GGUF file with a vocabulary and no tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(tokens))
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    adders: dict[str, Callable[[Any], None]] = {
        "pre": writer.add_tokenizer_pre,
        "token_types": lambda kinds: writer.add_token_types([int(kind) for kind in kinds]),
        "scores": lambda scores: writer.add_token_scores(list(scores)),
        "merges": writer.add_token_merges,
        "unk": writer.add_unk_token_id,
        "add_bos": writer.add_add_bos_token,
        "add_eos": writer.add_add_eos_token,
        "add_space_prefix": writer.add_add_space_prefix,
        "chat_template": writer.add_chat_template,
    }
    for field, value in more.items():
        adders[field](value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
