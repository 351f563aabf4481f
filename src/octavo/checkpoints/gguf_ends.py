"""Which tokens of a GGUF file end an answer: those that its metadata name, and those that are known by their text."""

from typing import Any

from gguf.constants import Keys, TokenType

TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>", "[EOS]")
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<EOT>", "_<EOT>", "[EOT]")
MESSAGE_ENDS = ("<|eom_id|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>")
"""Where a model waits for what a tool returns, or has said all."""
PICTURE_ENDS = ("<end_of_utterance>",)
CODE_ENDS = ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|file_sep|>")
REPOSITORY_ENDS = ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")
"""What a model of code writes behind the end of a file: padding, the next file or the next repository."""
ENDS = frozenset(TEXT_ENDS + TURN_ENDS + MESSAGE_ENDS + PICTURE_ENDS + CODE_ENDS + REPOSITORY_ENDS)
"""Tokens that end an answer wherever a vocabulary has them, as in llama.cpp: converters write down one end, and models
were taught several."""
MARKUP_END = "</s>"
"""An end where it is a control token; Gemma's vocabulary has it as a piece of HTML."""
_NAMED = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


def end_token_ids(metadata: dict[str, Any]) -> list[int]:
    """The ids of a GGUF file's end tokens, those with a name in the metadata first."""
    tokens = metadata.get(Keys.Tokenizer.LIST, [])
    types = metadata.get(Keys.Tokenizer.TOKEN_TYPE, [])
    named = [metadata[key] for kind in _NAMED if (key := f"tokenizer.ggml.{kind}_token_id") in metadata]
    known = {text: index for index, text in enumerate(tokens) if text in ENDS}
    if MARKUP_END in tokens:
        index = tokens.index(MARKUP_END)
        if index < len(types) and types[index] == TokenType.CONTROL:
            known[MARKUP_END] = index
    # There <|end|> ends a message, of which an answer has several.
    if {"<|return|>", "<|call|>"} <= known.keys() or {"<|calls|>", "<|flush|>"} <= known.keys():
        known.pop("<|end|>", None)
    if "<|tool_response>" in known:
        known.pop(MARKUP_END, None)
    return list(dict.fromkeys([*named, *known.values()]))
