"""Unique keys, and the set of hashes that remembers them."""

from hypothesis import given
from hypothesis import strategies as st

from shards.manifests.keys import HashSet, Keys, plain_key

NAMES = st.lists(st.text("ab./\\ _-é\ud83d", min_size=1, max_size=4), max_size=40)


@given(NAMES)
def test_every_name_gets_one_key_and_no_two_the_same(names: list[str]) -> None:
    keys, given_keys = Keys(), {}
    for name in names:
        assert keys.seen(name) == (name in given_keys)
        if not keys.seen(name):
            given_keys[name] = keys.assign(name)
    assert len(set(given_keys.values())) == len(given_keys)
    assert all(key == plain_key(key) for key in given_keys.values())


@given(NAMES)
def test_names_without_collision_keep_their_plain_key(names: list[str]) -> None:
    keys = Keys()
    distinct = {plain_key(name): name for name in names}
    assert [keys.assign(name) for name in distinct.values()] == list(distinct)


def test_origin_resolves_a_collision() -> None:
    keys = Keys()
    assert [keys.assign("u", f"{folder}/u") for folder in ("a", "b")] == ["u", "b_u"]
    assert keys.seen("u", "b/u")
    assert not keys.seen("u", "c/u")
    assert keys.assign("b_u", "c/b/u") == "c_b_u"


def test_hash_set_grows() -> None:
    names = HashSet()
    assert [names.add(str(i % 5000)) for i in range(10_000)] == [True] * 5000 + [False] * 5000
    assert len(names) == 5000
    assert all(str(i) in names for i in range(5000))
    assert "5001" not in names
    assert names._table.itemsize * len(names._table) <= 5000 * 28
