"""Subsets by hours and exclude lists."""

from __future__ import annotations

import pytest

from pipeline.data.index_rows import Selection, read_exclude_list
from pipeline.data.registration import BankVector
from pipeline.recipe.schema import DatasetConfig
from shards.errors import PlanError
from tests.support.planning import make_plan, make_source, samples_of


def keys(selection: Selection) -> set[str]:
    return {r.key for shard in selection.shards for r in selection.rows(shard)}


def test_subsets_of_one_seed_are_nested_and_as_long_as_asked_for():
    source = make_source(300)
    rows = {r.key: r for shard in source.shards for r in shard}
    total = sum(source.shard_seconds) / 3600
    inner = set()
    for hours in (0.02, 0.1, total / 2, 0.9 * total, total):
        chosen = keys(Selection(source, seed=1, hours=hours))
        assert inner <= chosen
        seconds = sum(rows[k].seconds for k in chosen)
        assert hours * 3600 <= seconds + 1e-6
        assert seconds < hours * 3600 + 8  # the longest sample
        inner = chosen
    assert inner == set(rows)


def test_another_seed_takes_another_subset():
    source = make_source(300)
    assert keys(Selection(source, 1, 0.1)) != keys(Selection(source, 2, 0.1))


def test_a_small_subset_does_not_read_the_other_shards():
    source = make_source(300)
    selection = Selection(source, 1, 0.05)
    assert set(source.asked) | set(selection.shards) == set(selection.shards)
    assert len(selection.shards) < 10


def test_more_hours_than_there_are_is_an_error():
    with pytest.raises(PlanError, match="5 hours wanted"):
        Selection(make_source(30), 1, 5.0)


def test_an_exclude_list_that_is_not_utf8_is_named(tmp_path):
    listed = tmp_path / "exclude.txt"
    listed.write_bytes("José".encode("latin-1"))
    with pytest.raises(PlanError, match=r"exclude\.txt: not UTF-8"):
        read_exclude_list(listed)


def test_keys_sessions_and_speakers_can_be_excluded(tmp_path):
    source = make_source(300)
    listed = tmp_path / "exclude.txt"
    listed.write_text("# withdrawn\nmade-0007\n\nmade-session-3  # bad microphone\nmade:S2\n")
    exclude = read_exclude_list(listed)
    assert exclude == {"made-0007", "made-session-3", "made:S2"}
    rows = {r.key: r for shard in source.shards for r in shard}
    gone = set(rows) - keys(Selection(source, 1, exclude=exclude))
    assert gone == {
        k for k, r in rows.items() if k == "made-0007" or r.session == "made-session-3" or "made:S2" in r.speakers
    }


def test_an_excluded_speaker_is_never_a_distractor(tmp_path):
    listed = tmp_path / "exclude.txt"
    listed.write_text("made:S2\n")
    source = make_source(300)
    row = source.bank.ids.index("made:S2")
    plan = make_plan(source, shares=[DatasetConfig(path="made", exclude=str(listed))])
    drawn = [s.row for p in samples_of(list(plan)) for s in p.sources if isinstance(s, BankVector)]
    assert drawn
    assert row not in drawn


def test_a_missing_exclude_list_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"gone\.txt"):
        read_exclude_list(tmp_path / "gone.txt")
