"""``python launch/reason_llm.py LLM RUN DATA OUT``: a stand-in LLM learns to write what it never wrote.

A public LLM can write any text. The demo's stand-in has practised SpeakerLM's prompts alone, and its output layer is
frozen ever after: tokens that it never wrote, such as most digits, have rows that training pushed away, and ten of them
cannot share the probability of one place. Here the rows of these tokens, in the input and in the output table, are
trained on the text of Speaker-Reasoner's dialogues, without audio. All other weights stay, so what was trained on the
LLM continues with the result: ``OUT/llm`` is the LLM, ``OUT/run`` the run's weights as weights of this LLM.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.dialogue.build import Clip, DialogueRules, dialogue
from pipeline.model.own_weights import WEIGHTS, base_hashes, save_own_weights
from pipeline.prompts import PromptTokenizer, WordsPiece, words_text
from pipeline.stages import Task
from pipeline.standins.exercises import draw_exercises, make_text
from pipeline.standins.optimize import optimize
from pipeline.standins.words import words_by_language
from shards.commands.parser import Parser
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_meta
from shards.errors import SpeakerLMError
from shards.sample import SAMPLE_RATE, Segment

if TYPE_CHECKING:
    from torch import Tensor

TASKS = (Task.REASON, Task.SINGLE, Task.COUNT, Task.GENDERS)
DRAWS = 400  # updates of stage 0 whose tokens count as practised
BATCH = 8

Written = tuple[list[int], list[bool]]  # tokens of a dialogue, and which of them the model writes


def practised(tokenizer: PromptTokenizer, words: dict[str, list[str]]) -> set[int]:
    """Return the tokens that stage 0's exercises have."""
    rng = random.Random(0)
    found = {tokenizer.eos}
    for draw in range(DRAWS):
        for exercise in draw_exercises(rng, draw / DRAWS):
            found.update(make_text(rng, tokenizer, words, exercise).ids)
    return found


def written(meta: dict[str, Any], task: Task, tokenizer: PromptTokenizer, rules: DialogueRules) -> Written:
    """Return a sample's dialogue as tokens, without its audio."""
    segments = [Segment(**s) for s in meta["segments"]]
    samples = round(meta["duration"] * SAMPLE_RATE)
    clip = Clip(segments, samples, meta["language"], meta.get("genders", {}))
    ids: list[int] = []
    target: list[bool] = []

    def words(piece: WordsPiece) -> str:
        return words_text(segments[piece.segment].text)

    for number, turn in enumerate(dialogue(task, clip, rules)):
        asked = [i for i in tokenizer.encode_turn(turn.pieces, number == 0, words) if isinstance(i, int)]
        answer: list[int] = []
        for part in turn.target:
            word = isinstance(part, WordsPiece)
            answer += tokenizer.encode_piece(words(part)) if word else tokenizer.encode_common(part.text)  # type: ignore[arg-type, union-attr]
        ids += [*asked, *answer, tokenizer.eos]
        target += [False] * len(asked) + [True] * (len(answer) + 1)
    return ids, target


def train_rows(model: Any, rows: Sequence[int], texts: Sequence[Written], steps: int, seed: int) -> None:
    """Train the rows of tokens in the input and output tables, in place; all other weights stay as they are."""
    import torch

    torch.manual_seed(seed)
    rng = random.Random(seed)
    model.requires_grad_(False)
    chosen = torch.tensor(sorted(rows))
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    trained = [table[chosen].detach().clone().requires_grad_() for table in tables]

    def loss(step: int) -> dict[str, Tensor]:
        batch = [rng.choice(texts) for _ in range(BATCH)]
        length = max(len(ids) for ids, _ in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        is_target = torch.zeros(len(batch), length, dtype=torch.bool)
        for row, (text, target) in enumerate(batch):
            ids[row, : len(text)], is_target[row, : len(text)] = torch.tensor(text), torch.tensor(target)
        read, write = (t.detach().index_copy(0, chosen, own) for t, own in zip(tables, trained, strict=True))
        hidden = model.model(inputs_embeds=read[ids], use_cache=False).last_hidden_state
        logits = hidden[:, :-1][is_target[:, 1:]] @ write.T
        return {"words": torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_target[:, 1:]])}

    optimize("unused tokens", trained, loss, steps, 2e-2)
    with torch.no_grad():
        for table, own in zip(tables, trained, strict=True):
            table[chosen] = own


def extend(llm: Path, run: Path, data: Path, out: Path, steps: int, seed: int, decimals: int) -> None:
    """Write ``out/llm`` and ``out/run``.

    Args:
        decimals: of times in the dialogues.

    Raises:
        SpeakerLMError: LLM, run or data cannot be read.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from pipeline.model.causal_lm import bars_on_terminals_only

    torch.set_num_threads(1)
    bars_on_terminals_only()
    tokenizer = PromptTokenizer.from_folder(llm)
    rows = set(range(len(tokenizer.tokenizer))) - practised(tokenizer, words_by_language(data))
    dataset = open_dataset(str(data / "simulated"))
    metas = [meta for shard in range(len(dataset.shards)) for meta in read_meta(dataset, shard)]
    texts = [written(meta, task, tokenizer, DialogueRules(decimals=decimals)) for meta in metas for task in TASKS]
    model: Any = AutoModelForCausalLM.from_pretrained(str(llm))
    train_rows(model, sorted(rows), texts, steps, seed)
    shutil.copytree(llm, out / "llm", dirs_exist_ok=True)
    model.save_pretrained(str(out / "llm"))
    save_own_weights(out / "run" / WEIGHTS, load_file(run / WEIGHTS), base_hashes(out / "llm"))
    (out / "done").write_text(json.dumps({"rows": len(rows), "steps": steps}))


def main(argv: Sequence[str] | None = None) -> int:
    """Train the rows of tokens that a stand-in LLM has not practised."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llm", type=Path, help="folder of the LLM that stage 0 made")
    parser.add_argument("run", type=Path, help="finished run of that LLM")
    parser.add_argument("data", type=Path, help="folder with the packed datasets asr and simulated")
    parser.add_argument("out", type=Path, help="folder for llm/ and run/")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--decimals", type=int, default=1, help="of times, as data.dialogue.decimals of the recipes")
    parser.add_argument("--seed", type=int, default=0)
    try:
        extend(**vars(parser.parse_args(argv)))
    except SpeakerLMError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
