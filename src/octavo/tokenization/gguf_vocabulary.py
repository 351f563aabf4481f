"""Building a tokenizer from the vocabulary inside a GGUF file, as the model's own tokenizer.json would."""

import math
from pathlib import Path
from typing import Any

from gguf.constants import Keys, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from octavo.checkpoints.gguf_ends import end_token_ids
from octavo.checkpoints.gguf_header import read_header
from octavo.errors import ModelError
from octavo.tokenization.vocabulary import TOOL_TEMPLATE, Vocabulary

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEHIND_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}" + _BEHIND_WORDS
)
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}"
    r"|\p{N}{1,3}" + _BEHIND_WORDS
)

LLAMA3_NAMES = [
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
]
"""What converters call LLaMA 3's pre-tokenizer, after the models that they met it in."""
QWEN2_NAMES = [
    "qwen2",
    "deepseek-r1-qwen",
    "kormo",
    "f2llmv2",
    "megrez",
    "stablelm2",
    "hunyuan",
    "solar-open",
    "grok-2",
]
GPT4O_NAMES = ["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"]
GPT2_NAMES = [
    "gpt-2",
    "phi-2",
    "mpt",
    "olmo",
    "jais",
    "trillion",
    "granite-docling",
    "exaone4",
    "gigachat",
    "a.x-4.0",
    "mellum",
    "jina-es",
    "jina-de",
]
SMOLLM_NAMES = ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"]

SPLITS_BY_NAME: dict[str, tuple[str, ...]] = {
    **dict.fromkeys([*LLAMA3_NAMES, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], (LLAMA3_SPLIT,)),
    **dict.fromkeys(QWEN2_NAMES, (QWEN2_SPLIT,)),
    "tekken": (TEKKEN_SPLIT,),
    **dict.fromkeys(GPT4O_NAMES, (GPT4O_SPLIT,)),
    **dict.fromkeys(GPT2_NAMES, (GPT2_SPLIT,)),
    **dict.fromkeys(SMOLLM_NAMES, (r"\p{N}", GPT2_SPLIT)),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
"""The patterns behind each `tokenizer.ggml.pre`, as in llama.cpp: each splits the pieces that the one before left."""

WHOLE_WORD_NAMES = (*LLAMA3_NAMES, "tekken")
"""Here words that are tokens are taken whole, and a text begins with BOS unless the file says otherwise."""

PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")
"""All other special tokens of Phi-3's SentencePiece vocabulary take the white space behind them, as published."""


def read_gguf_vocabulary(*pieces: Path) -> Vocabulary:
    """Read the vocabulary of a GGUF file: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE with byte fallback).

    Args:
        pieces: the file, as for `read_header`.

    Raises:
        ModelError: the file cannot be read, or its vocabulary is of an unknown kind, incomplete or inconsistent.
    """
    path, metadata = pieces[0], read_header(*pieces).metadata
    kind = metadata.get(Keys.Tokenizer.MODEL)
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise ModelError(f"{path} has a vocabulary of kind {kind!r}; the known kinds are {', '.join(builders)}")
    try:
        return _vocabulary(builders[kind](metadata), metadata, kind)
    except ModelError:
        raise
    except Exception as error:  # missing keys, ids past the end, and the library's bare Exception for bad merges
        raise ModelError(f"{path} has a broken vocabulary: {type(error).__name__}: {error}") from error


def _vocabulary(backend: Tokenizer, metadata: dict[str, Any], kind: str) -> Vocabulary:
    _add_marked_tokens(backend, metadata)
    _add_bos_and_eos(backend, metadata, kind)
    keys = Keys.Tokenizer
    ids = {"bos_token": keys.BOS_ID, "eos_token": keys.EOS_ID, "unk_token": keys.UNK_ID, "pad_token": keys.PAD_ID}
    return Vocabulary(
        backend=backend,
        special_tokens={role: _token(metadata, key) for role, key in ids.items() if key in metadata},
        chat_template=metadata.get(keys.CHAT_TEMPLATE),
        tool_template=metadata.get(keys.CHAT_TEMPLATE_N.format(name=TOOL_TEMPLATE)),
    )


def _byte_level(metadata: dict[str, Any]) -> Tokenizer:
    """GPT-2's tokenizer (Radford et al., 2019): bytes spelled as printable characters, merges in the file."""
    name = metadata.get(Keys.Tokenizer.PRE, "default")
    if name not in SPLITS_BY_NAME:
        known = ", ".join(sorted(SPLITS_BY_NAME))
        raise ModelError(f"the GGUF file's pre-tokenizer (tokenizer.ggml.pre) is {name!r}; the known ones are {known}")
    backend = Tokenizer(
        models.BPE(vocab=_ids(metadata), merges=_merges(metadata), ignore_merges=name in WHOLE_WORD_NAMES)
    )
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS_BY_NAME[name]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(metadata: dict[str, Any]) -> Tokenizer:
    """LLaMA's tokenizer: SentencePiece BPE (Kudo and Richardson, 2018), the better score merged first.

    A space is written ▁, and one goes before every text; characters outside the vocabulary become bytes.
    """
    tokens = [_written(token) for token in metadata[Keys.Tokenizer.LIST]]
    merges = _merges(metadata) if Keys.Tokenizer.MERGES in metadata else _merges_from_scores(tokens, metadata)
    unknown = _token(metadata, Keys.Tokenizer.UNK_ID) if Keys.Tokenizer.UNK_ID in metadata else None
    vocab = {token: index for index, token in enumerate(tokens)}
    bpe = models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(bpe)
    has_prefix = metadata.get(Keys.Tokenizer.ADD_PREFIX, True)
    prefix = [normalizers.Prepend("▁")] if has_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _written(token: str) -> str:
    """A token as a normalized text has it: converters write Gemma's runs of spaces, and those only, as such."""
    return token if token.strip(" ") else token.replace(" ", "▁")


def _ids(metadata: dict[str, Any]) -> dict[str, int]:
    return {token: index for index, token in enumerate(metadata[Keys.Tokenizer.LIST])}


def _token(metadata: dict[str, Any], key: str) -> str:
    """The text of the token whose id is under `key`."""
    text: str = metadata[Keys.Tokenizer.LIST][metadata[key]]
    return text


def _types(metadata: dict[str, Any]) -> list[int]:
    """Each token's `TokenType`; files without any have normal tokens only."""
    num_tokens = len(metadata[Keys.Tokenizer.LIST])
    types: list[int] = metadata.get(Keys.Tokenizer.TOKEN_TYPE, [TokenType.NORMAL] * num_tokens)
    if len(types) != num_tokens:
        raise ModelError(f"the GGUF file has {num_tokens} tokens and {len(types)} token types")
    return types


def _merges(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    """Each merge is written as its two halves with a space between."""
    halves = (text.partition(" ") for text in metadata[Keys.Tokenizer.MERGES])
    return [(left, right) for left, _, right in halves]


def _merges_from_scores(tokens: list[str], metadata: dict[str, Any]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, best score of the result first, the longest left half first of equals.

    Control, byte and user-defined tokens are never merged from text, but for the runs of spaces that a user defined:
    those are made before anything else, as SentencePiece takes such tokens from a text before it looks at scores.
    """
    kinds, scores = _types(metadata), metadata[Keys.Tokenizer.SCORES]
    defined = (index for index, kind in enumerate(kinds) if kind == TokenType.USER_DEFINED)
    runs = {index for index in defined if not tokens[index].strip("▁")}
    made = [index for index, kind in enumerate(kinds) if kind == TokenType.NORMAL or index in runs]
    ids = {tokens[index]: index for index in made}
    found = []
    for index in made:
        token, rank = tokens[index], -math.inf if index in runs else -scores[index]
        for middle in range(len(token) - 1, 0, -1):  # kept tight: a vocabulary has some million halves
            left = token[:middle]
            if left in ids and (right := token[middle:]) in ids:
                found.append((rank, -middle, middle - len(token), index, left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_marked_tokens(backend: Tokenizer, metadata: dict[str, Any]) -> None:
    """Control, unknown and user-defined tokens are taken whole wherever a text has them, and so are those that end an
    answer, which some files leave unmarked. All but the user-defined ones are special.

    Runs of spaces are not taken whole: merges make them.
    """
    special, ends = (TokenType.CONTROL, TokenType.UNKNOWN), set(end_token_ids(metadata))
    is_phi3 = metadata.get("general.architecture") == "phi3" and metadata[Keys.Tokenizer.MODEL] == "llama"
    marked = []
    for token_id, (token, kind) in enumerate(zip(metadata[Keys.Tokenizer.LIST], _types(metadata), strict=True)):
        is_special = kind in special or token_id in ends
        if is_special or (kind == TokenType.USER_DEFINED and token.strip(" ▁")):
            strips = is_phi3 and token not in PHI3_PLAIN
            marked.append(AddedToken(token, normalized=False, special=is_special, rstrip=strips))
    backend.add_tokens(marked)


def _add_bos_and_eos(backend: Tokenizer, metadata: dict[str, Any], kind: str) -> None:
    keys = Keys.Tokenizer
    begins_with_bos = kind == "llama" or metadata.get(keys.PRE) in WHOLE_WORD_NAMES
    has_bos = metadata.get(keys.ADD_BOS, begins_with_bos) and keys.BOS_ID in metadata
    has_eos = metadata.get(keys.ADD_EOS, False) and keys.EOS_ID in metadata
    if not (has_bos or has_eos):
        return
    before = [(_token(metadata, keys.BOS_ID), metadata[keys.BOS_ID])] if has_bos else []
    after = [(_token(metadata, keys.EOS_ID), metadata[keys.EOS_ID])] if has_eos else []
    backend.post_processor = processors.TemplateProcessing(
        single=[token for token, _ in before] + ["$A"] + [token for token, _ in after],
        special_tokens=list(dict.fromkeys(before + after)),
    )
