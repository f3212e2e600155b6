"""The line of context: terms of a text, how they are drawn, counted and collated, and that runs resume with it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.context import draw_context
from pipeline.data.lengths import build_lengths, read_lengths
from pipeline.data.loader import Loader, SampleReader
from pipeline.data.terms import TERMS, document_frequency, find_terms
from pipeline.prompts import PromptTokenizer, clean_text
from pipeline.recipe.schema import ContextConfig, DatasetConfig
from shards.dataset.dataset import Dataset
from shards.dataset.reader import read_sample
from shards.errors import PlanError
from tests.support.datasets import make_dataset
from tests.support.planning import make_data, make_plan, make_source, packed_plan, samples_of
from tests.support.tiny import TEXTS, make_tokenizer

CONTEXT = ContextConfig(share=0.8, max_terms=2, max_distractors=3)
SAID = ("今天下午开会，王小明", "we met Mike O'Neill", "the GPU is at AT&T", "we said the price is 30", "问题 for Lucy")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data"), samples=24, seconds=(0.4, 1.5), texts=SAID)


def test_terms_are_the_rare_words_as_they_are_spelt() -> None:
    clips = [(f"k{i}", [f"so we met {name} at the  office"]) for i, name in enumerate(("Mike O'Neill", "Lucy", "Ann"))]
    frequency = document_frequency(clips)
    assert (frequency["we"], frequency["mike"], frequency["o'neill"]) == (3, 1, 1)
    terms = find_terms(*clips[0], frequency)
    assert {"Mike", "O'Neill"} <= set(" ".join(terms).split())
    assert all(term in clean_text(clips[0][1][0]) for term in terms)
    assert len(" ".join(terms).split()) == 4  # half of eight words
    assert find_terms(*clips[0], frequency) == terms


@pytest.mark.parametrize("text", ["", "…?!", "30 40", "嗯"])
def test_a_text_without_words_has_no_terms(text: str) -> None:
    assert find_terms("k", [text], document_frequency([("k", [text])])) == []


def test_chinese_is_cut_into_short_pieces() -> None:
    text = "我们今天下午讨论王小明的问题"
    terms = find_terms("k", [text], document_frequency([("k", [text])]))
    assert terms
    assert all(2 <= len(term) <= 15 and term in text for term in terms)


def test_stored_terms_are_in_the_text_of_their_sample(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    build_lengths(dataset, tokenizer, kind=TERMS)
    found = 0
    for shard in range(len(dataset.shards)):
        for row, stored in enumerate(read_lengths(dataset, shard, tokenizer.hash, kind=TERMS).to_pylist()):
            texts = [clean_text(s.text) for s in read_sample(dataset, shard, row).segments]
            assert all(any(term in text for text in texts) for term in stored["terms"])
            found += len(stored["terms"])
    assert found > 20


def test_a_draw_has_own_terms_distractors_and_sometimes_neither() -> None:
    own, others = tuple(f"own{i}" for i in range(9)), tuple(f"other{i}" for i in range(50)) + ("own3",)
    lines = [draw_context(own, others, CONTEXT, ("seed", i)) for i in range(2000)]
    assert lines == [draw_context(own, others, CONTEXT, ("seed", i)) for i in range(2000)]
    kinds = Counter((sum(t.startswith("own") for t in x), sum(t.startswith("other") for t in x)) for x in lines)
    assert set(kinds) == set(itertools.product(range(3), range(4)))
    assert all(len(set(x)) == len(x) for x in lines)
    empty = sum(not x for x in lines) / 2000
    assert empty == pytest.approx(0.2 + 0.8 / 12, abs=0.04)
    assert {x[0].startswith("own") for x in lines if len(x) > 2} == {True, False}  # in no fixed order
    assert draw_context((), (), CONTEXT, ("seed", 1)) == ()
    assert draw_context(own, others, ContextConfig(), ("seed", 1)) == ()


def test_positions_are_counted_with_the_line_exactly(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    """Collation refuses a sample whose length differs from the planned one."""
    plan = packed_plan([dataset], tokenizer, data=make_data(context=CONTEXT))
    loaded = list(Loader(plan, SampleReader([dataset], tokenizer, 2, 192)))
    batches = [b for step in loaded for b in step.micro_batches if b.weight]
    prompts = [tokenizer.tokenizer.decode(b.input_ids.tolist()) for b in batches]
    assert 10 < sum(text.count("Context:") for text in prompts) < 24
    assert "O'Neill" in "".join(prompts)


def test_without_a_share_prompts_and_plan_are_as_before(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    off = make_data(context=replace(CONTEXT, share=0.0))
    plans = [packed_plan([dataset], tokenizer, data=data) for data in (make_data(), off)]
    assert plans[0].identity == plans[1].identity
    assert "data.context" not in plans[0].identity["recipe"]
    first, second = ([s for step in plan for s in samples_of([step])] for plan in plans)
    assert first == second
    assert not any(p.context for p in first)


def test_a_run_that_resumes_on_other_ranks_gets_the_same_lines(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    data = make_data(context=CONTEXT, max_positions=400, window_shards=1)
    whole = list(itertools.islice(packed_plan([dataset], tokenizer, data=data, epochs=2), 12))
    lines = [p.context for p in samples_of(whole)]
    assert len(set(lines)) > 20
    for place in range(len(whole) - 1):
        plan = packed_plan([dataset], tokenizer, data=data, epochs=2)
        plan.load_state_dict(json.loads(json.dumps(whole[place].state)))
        assert samples_of(list(itertools.islice(plan, 1))) == samples_of(whole[place + 1 : place + 2])

    def ids(ranks: int, workers: int) -> list[list[int]]:
        shares = []
        for rank in range(ranks):
            plan = packed_plan([dataset], tokenizer, data=data)
            loader = Loader(plan, SampleReader([dataset], tokenizer, 2, 192), rank=rank, world_size=ranks,
                            workers=workers)  # fmt: skip
            shares.append([[b.input_ids.tolist() for b in step.micro_batches if b.weight] for step in loader])
        return [x for parts in zip(*shares, strict=True) for turn in itertools.zip_longest(*parts) for x in turn if x]

    assert ids(1, 0) == ids(2, 1)


def test_excluded_samples_give_no_distractors(tmp_path: Path, dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    """Consent that is withdrawn covers a sample's words too."""
    from pipeline.data.dataset_stream import Stream
    from pipeline.data.index_rows import DatasetSource
    from pipeline.data.token_counter import TokenCounter

    build_lengths(dataset, tokenizer)
    build_lengths(dataset, tokenizer, kind=TERMS)
    source = DatasetSource(dataset, tokenizer.hash, terms=True)
    rows = source.rows(0)
    (tmp_path / "exclude").write_text("\n".join(r.key for r in rows[1:]))
    settings = packed_plan([dataset], tokenizer, data=make_data(context=CONTEXT)).settings
    stream = Stream(0, source, DatasetConfig("", exclude=str(tmp_path / "exclude")), settings, TokenCounter(tokenizer))
    assert set(stream._terms_of(0)) == set(rows[0].terms)


def test_a_changed_context_is_refused_on_resume() -> None:
    state = next(iter(make_plan(make_source(40)))).state
    plan = make_plan(make_source(40), data=make_data(context=CONTEXT))
    with pytest.raises(PlanError, match=r"data\.context was None, is"):
        plan.load_state_dict(state)
