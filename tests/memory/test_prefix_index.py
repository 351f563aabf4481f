"""What the prefix index finds, in which order it gives blocks up, and that no two contents have one name."""

from hypothesis import given
from hypothesis import strategies as st

from octavo.memory import BlockTable, PagedManager, PrefixHit, chain_digest, chain_root
from paged_memory import paged

SIZE = 4
ROOT = chain_root(scope="test")
TEXTS = st.text(st.sampled_from("ab\0"), max_size=4)


def filled(memory: PagedManager, tokens: list[int]) -> BlockTable:
    """A sequence with these tokens, whose full blocks are in the index."""
    table, digest = memory.new_table(100), ROOT
    memory.append(table, len(tokens))
    for logical in range(len(tokens) // SIZE):
        digest = chain_digest(digest, tokens[logical * SIZE : (logical + 1) * SIZE])
        memory.pool.index.add(table.groups[0][logical], 0, digest)
    return table


def found(memory: PagedManager, tokens: list[int]) -> list[int | None]:
    digest, blocks = ROOT, []
    for start in range(0, len(tokens), SIZE):
        digest = chain_digest(digest, tokens[start : start + SIZE])
        blocks.append(memory.pool.index.find(0, [digest]))
    return blocks


def test_a_freed_block_is_found_until_its_memory_is_needed() -> None:
    memory = paged(4, SIZE)
    first = filled(memory, [1] * 8)
    blocks = first.groups[0].copy()
    memory.free(first)
    assert (memory.num_free_blocks, memory.ledger().num_cached_blocks) == (4, 2)
    assert found(memory, [1] * 8) == blocks
    filled(memory, [2] * 8)
    assert found(memory, [1] * 8) == blocks, "blocks that hold nothing were taken first"
    filled(memory, [3] * 4)
    assert found(memory, [1] * 8) == [blocks[0], None], "of a chain the last block goes first"


def test_the_least_recently_used_goes_first() -> None:
    memory = paged(2, SIZE)
    for tokens in ([1] * 4, [2] * 4):
        memory.free(filled(memory, tokens))
    again = memory.new_table(100)
    memory.hold(again, memory.find_prefix(1, lambda _: [chain_digest(ROOT, [1] * 4)]))
    memory.free(again)
    filled(memory, [3] * 4)
    assert found(memory, [2] * 4) == [None]
    assert found(memory, [1] * 4) != [None]


def test_blocks_filled_twice_keep_the_order_of_their_chain() -> None:
    memory = paged(5, SIZE)
    first, second = filled(memory, [1] * 4), filled(memory, [1] * 8)
    indexed, private = first.groups[0][0], second.groups[0][0]
    assert found(memory, [1] * 8) == [indexed, second.groups[0][1]]
    memory.free(first)
    memory.free(second)
    assert memory.ledger().num_cached_blocks == 2, "the second copy is not kept"
    assert memory.pool.index.name(private) is None
    filled(memory, [2] * 16)
    assert found(memory, [1] * 8) == [indexed, None], "the leaf goes before the block that its chain begins with"


def test_a_second_copy_takes_the_place_of_one_that_is_gone() -> None:
    memory = paged(2, SIZE)
    first, second = filled(memory, [1] * 4), filled(memory, [1] * 4)
    memory.free(first)
    other = filled(memory, [2] * 4)
    assert found(memory, [1] * 4) == [None]
    memory.free(second)
    assert found(memory, [1] * 4) == [0 if other.groups[0] == [1] else 1]


def test_pins_outlive_a_restart_and_nothing_else_does() -> None:
    memory = paged(4, SIZE)
    kept, other = filled(memory, [1] * 8), filled(memory, [2] * 4)
    pins = kept.groups[0].copy()
    memory.pin(PrefixHit(2, [0], [pins]))
    memory.free(kept)
    memory.free(other)
    memory.restart()
    assert found(memory, [1] * 8) == pins
    assert found(memory, [2] * 4) == [None]
    assert (memory.num_used_blocks, memory.num_free_blocks, memory.ledger().num_unshared_blocks) == (2, 2, 0)
    assert set(filled(memory, [3] * 8).groups[0]).isdisjoint(pins)


@given(st.dictionaries(TEXTS, TEXTS, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_two_sets_of_fields_have_one_root_only_where_they_are_the_same(a: dict[str, str], b: dict[str, str]) -> None:
    assert (chain_root(**a) == chain_root(**b)) == (a == b)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6), st.sampled_from("ab"))
def test_one_digest_means_one_chain(a: list[int], b: list[int], salt: str) -> None:
    root = chain_root(scope="tenant", cache_salt=salt)
    same_root = salt == "a"
    other = chain_root(scope="tenant", cache_salt="a")
    assert (chain_digest(root, a) == chain_digest(other, b)) == (a == b and same_root)
    assert chain_digest(chain_digest(root, a), b) != chain_digest(root, a + b)
