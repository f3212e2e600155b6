"""``python launch/reason_llm.py RECIPES LLM RUN OUT``: a stand-in LLM learns to write what it never wrote.

A public LLM can write any text. The demo's stand-in has practised SpeakerLM's prompts alone, and its output layer is
frozen in all stages: tokens that it never wrote, such as most digits, have rows that training pushed away, and ten of
them cannot share the probability of one place. Here it gets a token for every time of a clip in tenths of a second, as
it has one for every word of the demo, and practises the dialogues of the recipes' training data
(``launch/reason_practice.py``), with the encoder and projectors of a run. ``OUT/llm`` is the LLM, ``OUT/run`` the
run's weights as weights of this LLM; the recipes' ``model.llm.checkpoint`` must be the former.
``torchrun --standalone --nproc-per-node 2 launch/reason_llm.py …`` does so on two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.model.own_weights import (
    WEIGHTS,
    ZERO_AT_START,
    base_hashes,
    load_own_weights,
    own_state_dict,
    save_own_weights,
)
from pipeline.ranks.launch import Ranks, init_distributed
from pipeline.recipe.load import load_recipes
from pipeline.recipe.schema import Recipe
from pipeline.standins.train_llm import VOICE_GAIN
from reason_practice import LONGEST, practise, time_text
from shards.commands.parser import Parser
from shards.errors import ModelError, SpeakerLMError

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_SECONDS = 300  # of a collective call


def add_times(llm: Path, out: Path, seed: int) -> Tensor:
    """Write an LLM's folder with one more token for each time of a clip, and numbers that count from 1.

    A row of a time is the sum of random vectors of its digits, each with its place: times that share a digit are alike.
    A digit gets the row of the one before it, so what counted speakers of SpeakerLM counts those of dialogues.

    Returns:
        The digits' vectors as an embedding of time has them, (40, H).
    """
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.prompts import PromptTokenizer

    tokenizer = PromptTokenizer.from_folder(llm).tokenizer  # a missing folder is a typed error
    model: Any = AutoModelForCausalLM.from_pretrained(str(llm))
    before = len(tokenizer)
    tokenizer.add_tokens([time_text(n) for n in range(LONGEST)])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    numbers = torch.tensor([tokenizer.encode(str(n), add_special_tokens=False)[0] for n in range(10)])
    tables = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    drawn = torch.randn(40, tables[0].shape[1], generator=torch.Generator().manual_seed(seed)) / 3**0.5
    drawn[:10] = 0  # hundreds of seconds
    tenths = torch.arange(LONGEST)
    rows = drawn[10 + tenths // 100] + drawn[20 + tenths // 10 % 10] + drawn[30 + tenths % 10]
    with torch.no_grad():
        for table in tables:
            table[before:] = rows * table[:before].std()
            table[numbers[1:]] = table[numbers[:-1]]  # SpeakerLM counts speakers from 0, dialogues from 1
    shutil.copytree(llm, out, dirs_exist_ok=True)
    tokenizer.save_pretrained(str(out))
    model.save_pretrained(str(out))
    return drawn * tables[0][:before].std().detach()


def save_llm(model: Any, folder: Path) -> None:
    """Write the base of a model's LLM, without LoRA, over the weights of a folder."""
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(str(folder))
    trained = {n.replace(".base_layer", ""): p for n, p in model.llm.state_dict().items() if ".lora_" not in n}
    base.load_state_dict(trained)
    base.save_pretrained(str(folder))


def extend(
    recipes: Sequence[Recipe], llm: Path, run: Path, out: Path, steps: int, seed: int, ranks: Ranks | None = None
) -> None:
    """Write ``out/llm`` and ``out/run``.

    Args:
        ranks: of this process, if several of a process group train together; rank 0 writes.

    Raises:
        SpeakerLMError: LLM, run or data cannot be read.
    """
    import torch
    from safetensors.torch import load_file

    from pipeline.model.build import build_model, load_tokenizer
    from pipeline.model.causal_lm import bars_on_terminals_only

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    bars_on_terminals_only()
    first = ranks is None or ranks.is_first
    made: list[Any] = [None]
    if first:
        try:
            if not (run / WEIGHTS).is_file():
                raise ModelError(f"{run}: no {WEIGHTS}; give the folder of a finished run")
            made[0] = add_times(llm, out / "llm", seed)
            save_own_weights(out / "run" / WEIGHTS, load_file(run / WEIGHTS), base_hashes(out / "llm"))
        except SpeakerLMError as e:
            made[0] = e
    if ranks:
        torch.distributed.broadcast_object_list(made)  # the others read what rank 0 wrote, or end with its error
    if isinstance(made[0], SpeakerLMError):
        raise made[0]
    model: Any = build_model(recipes[0].model, seed=seed)
    load_own_weights(model, out / "run", may_lack=ZERO_AT_START)
    with torch.no_grad():
        model.audio_projector.time.weight.copy_(VOICE_GAIN * made[0])
    practise(model, recipes, load_tokenizer(recipes[0].model), steps, ranks)
    if first:
        save_llm(model, out / "llm")
        save_own_weights(out / "run" / WEIGHTS, own_state_dict(model), base_hashes(out / "llm"))
        (out / "done").write_text(json.dumps({"steps": steps}))


def main(argv: Sequence[str] | None = None) -> int:
    """Let a stand-in LLM practise dialogues with times."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, help="recipes of Speaker-Reasoner whose training data is practised on")
    parser.add_argument("llm", type=Path, help="folder of the LLM that stage 0 made")
    parser.add_argument("run", type=Path, help="finished run of that LLM")
    parser.add_argument("out", type=Path, help="folder for llm/ and run/")
    parser.add_argument("overrides", nargs="*", help="settings of the recipe, as root=demo")
    parser.add_argument("--stages", default="R2-R3", help="of the recipes (R2-R3), in turn a micro-batch of each")
    parser.add_argument("--steps", type=int, default=600, help="updates, each of a micro-batch on every process (600)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        recipes = load_recipes(args.recipes, args.stages, args.overrides)
        ranks = init_distributed(TIMEOUT_SECONDS) if "WORLD_SIZE" in os.environ else None
        extend(recipes, args.llm, args.run, args.out, args.steps, args.seed, ranks)
    except SpeakerLMError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
