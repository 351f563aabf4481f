"""Edits of logits, for all rows of a step together, in the order of `RowEdits`' fields: each kind is a launch or two.

The host makes flat lists of entries (`list_edits`), which go up with the rest of the step; `apply_edits` works on what
has arrived. Entries of no token, -1, fill a list of biases up to whole tiles.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import Penalties, RowEdits, TokenIds
from octavo.kernels.triton.logits_pieces import PIECE

TILE = 256
"""Entries that one program takes; a thread has two, so that none is taken by two threads."""
SHARES = 8
"""Programs that share a list of seen tokens, whose length only the device has to know."""
WORD = 32
"""Tokens whose bits a word of a mask holds."""
FROM_PROMPT = tl.constexpr(1 << 30)
"""Marks a token that the prompt has, in a count of outputs."""

Lists = dict[str, NDArray[Any]]


def list_edits(edits: Iterable[tuple[int, RowEdits]], vocab_size: int) -> Lists:
    """The arrays that `apply_edits` needs, by name; none of a kind of edit that nobody asks for.

    Args:
        edits: (place among the edited rows, what is edited there).
    """
    asked = list(edits)
    masks = [
        (place, _mask_words(own, vocab_size)) for place, own in asked if own.allowed is not None or own.mask is not None
    ]
    biased = [
        (place, own.biased, own.biases) for place, own in asked if own.biased is not None and own.biases is not None
    ]
    held_back = [
        (place, own.held_back, np.full(len(own.held_back), -np.inf))
        for place, own in asked
        if own.held_back is not None
    ]
    penalties = [(place, own.penalties) for place, own in asked if own.penalties is not None]
    lists: Lists = {}
    if masks:
        lists["masked"] = np.array([place for place, _ in masks], np.int32)
        lists["masks"] = np.stack([words for _, words in masks])
    if biased:
        lists |= _addends("bias", biased, vocab_size)
    if penalties:
        lists |= _penalty_entries(penalties)
    if held_back:
        lists |= _addends("held_back", held_back, vocab_size)
    return lists


def _mask_words(edits: RowEdits, vocab_size: int) -> NDArray[np.int32]:
    """The tokens that a row may take as bits, the lowest first."""
    num_words = -(-vocab_size // WORD)
    if edits.allowed is None:
        allowed = np.full(num_words * WORD // 8, 0xFF, np.uint8)
    else:
        flags = np.zeros(num_words * WORD, np.bool_)
        flags[edits.allowed[edits.allowed < vocab_size]] = True
        allowed = np.packbits(flags, bitorder="little")
    if edits.mask is not None:
        given = np.frombuffer(edits.mask, np.uint8)[: len(allowed)]
        allowed[: len(given)] &= given
        allowed[len(given) :] = 0
    return allowed.view(np.int32)


def _addends(name: str, lists: Sequence[tuple[int, TokenIds, NDArray[np.float64]]], vocab_size: int) -> Lists:
    """What is added to which logit."""
    places = np.repeat([place for place, _, _ in lists], [len(token_ids) for _, token_ids, _ in lists])
    token_ids = np.concatenate([token_ids for _, token_ids, _ in lists])
    values = np.concatenate([values for _, _, values in lists])
    return {
        f"{name}_places": _whole_tiles(places, 0),
        f"{name}_tokens": _whole_tiles(_known(token_ids, vocab_size), -1),
        f"{name}_values": _whole_tiles(values, 0).astype(np.float32),
    }


def _penalty_entries(penalties: Sequence[tuple[int, Penalties]]) -> Lists:
    """Every token that a penalised row has seen, each time: a prompt and an output in turn, list after list."""
    seen = [token_ids for _, own in penalties for token_ids in (own.prompt, own.output)]
    starts = np.cumsum([0, *(len(token_ids) for token_ids in seen)])
    tokens = np.empty(starts[-1], np.int32)
    np.concatenate(seen, out=tokens, casting="unsafe")
    return {
        "penalised": np.array([place for place, _ in penalties], np.int32),
        "penalties": np.array([(own.repetition, own.frequency, own.presence) for _, own in penalties], np.float64),
        "seen_starts": starts,
        "seen_tokens": tokens,
    }


def _known(token_ids: TokenIds, vocab_size: int) -> NDArray[np.int32]:
    return np.where(token_ids < vocab_size, token_ids, -1).astype(np.int32)


def _whole_tiles(array: NDArray[Any], filling: int) -> NDArray[Any]:
    padded = np.pad(array, (0, -len(array) % TILE), constant_values=filling)
    return padded.astype(np.int32) if padded.dtype.kind == "i" else padded


def apply_edits(logits: torch.Tensor, lists: Mapping[str, torch.Tensor]) -> None:
    """Edit logits in place.

    Args:
        logits: `[num_edited, vocab_size]` float32.
        lists: `list_edits`' arrays, and others.
    """
    vocab_size = logits.shape[1]
    if "masked" in lists:
        masks = lists["masks"]
        grid = (triton.cdiv(vocab_size, PIECE), len(masks))
        mask_logits[grid](logits, lists["masked"], masks, masks.shape[1], vocab_size, PIECE=PIECE, num_warps=8)
    if "bias_tokens" in lists:
        _add(logits, lists, "bias")
    if "penalised" in lists:
        _penalise(logits, lists)
    if "held_back_tokens" in lists:
        _add(logits, lists, "held_back")


def _add(logits: torch.Tensor, lists: Mapping[str, torch.Tensor], name: str) -> None:
    entries = (lists[f"{name}_places"], lists[f"{name}_tokens"], lists[f"{name}_values"])
    add_to_logits[(len(entries[0]) // TILE,)](logits, *entries, logits.shape[1], TILE=TILE, num_warps=4)


def _penalise(logits: torch.Tensor, lists: Mapping[str, torch.Tensor]) -> None:
    vocab_size, seen = logits.shape[1], (lists["seen_starts"], lists["seen_tokens"])
    num_rows = len(lists["penalised"])
    counts = torch.zeros((num_rows, vocab_size), dtype=torch.int32, device=logits.device)
    grid = (2 * num_rows, SHARES)
    count_tokens[grid](counts, *seen, vocab_size, TILE=TILE, num_warps=4)
    penalise_logits[grid](
        logits, counts, *seen, lists["penalised"], lists["penalties"], vocab_size, TILE=TILE, num_warps=4
    )


@triton.jit
def mask_logits(logits, masked, masks, num_words, vocab_size, PIECE: tl.constexpr):
    """Tokens whose bit is not set become impossible, in one piece of one row. The grid is (pieces, masked rows)."""
    index = tl.program_id(1).to(tl.int64)
    tokens = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    is_token = tokens < vocab_size
    words = tl.load(masks + index * num_words + tokens // 32, mask=is_token, other=0)
    is_forbidden = ((words >> (tokens % 32)) & 1) == 0
    own = logits + tl.load(masked + index).to(tl.int64) * vocab_size
    tl.store(own + tokens, float("-inf"), mask=is_token & is_forbidden)


@triton.jit
def add_to_logits(logits, places, tokens, values, vocab_size, TILE: tl.constexpr):
    """Add to some logits. Where an entry comes twice, it adds minus infinity. The grid is (tiles of entries,)."""
    entries = tl.program_id(0) * TILE + tl.arange(0, TILE)
    token = tl.load(tokens + entries)
    own = logits + tl.load(places + entries).to(tl.int64) * vocab_size + token
    before = tl.load(own, mask=token >= 0, other=0.0)
    tl.store(own, before + tl.load(values + entries), mask=token >= 0)


@triton.jit
def count_tokens(counts, starts, tokens, vocab_size, TILE: tl.constexpr):
    """How often each row has generated each token, and a mark on those that its prompt has. The grid is (lists, shares
    of a list); even lists are prompts, odd ones outputs."""
    source = tl.program_id(0)
    own = counts + (source // 2).to(tl.int64) * vocab_size
    end = tl.load(starts + source + 1)
    step = tl.num_programs(1) * TILE
    for first in range(tl.load(starts + source) + tl.program_id(1) * TILE, end, step):
        entries = first + tl.arange(0, TILE)
        token = tl.load(tokens + entries, mask=entries < end, other=vocab_size)
        if source % 2 == 0:
            tl.atomic_or(own + token, tl.full([TILE], FROM_PROMPT, tl.int32), mask=token < vocab_size)
        else:
            tl.atomic_add(own + token, tl.full([TILE], 1, tl.int32), mask=token < vocab_size)


@triton.jit
def penalise_logits(logits, counts, starts, tokens, penalised, penalties, vocab_size, TILE: tl.constexpr):
    """Penalise every seen token once: of its entries, the one that takes its count away does. The grid is that of
    `count_tokens`."""
    source = tl.program_id(0)
    row = (source // 2).to(tl.int64)
    own = logits + tl.load(penalised + row).to(tl.int64) * vocab_size
    repetition = tl.load(penalties + row * 3).to(tl.float32)
    frequency = tl.load(penalties + row * 3 + 1)
    presence = tl.load(penalties + row * 3 + 2)
    end = tl.load(starts + source + 1)
    step = tl.num_programs(1) * TILE
    for first in range(tl.load(starts + source) + tl.program_id(1) * TILE, end, step):
        entries = first + tl.arange(0, TILE)
        token = tl.load(tokens + entries, mask=entries < end, other=vocab_size)
        is_token = token < vocab_size
        seen = tl.atomic_xchg(counts + row * vocab_size + token, tl.zeros([TILE], tl.int32), mask=is_token)
        is_own = is_token & (seen != 0)
        before = tl.load(own + token, mask=is_own, other=0.0)
        after = tl.where(before > 0, tl.div_rn(before, repetition), before * repetition)
        count = seen & (FROM_PROMPT - 1)
        cost = (count.to(tl.float64) * frequency + presence).to(tl.float32)
        tl.store(own + token, after - tl.where(count > 0, cost, 0.0), mask=is_own)
