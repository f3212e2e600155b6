"""``python launch/reason_llm.py RECIPE LLM RUN OUT``: a stand-in LLM learns to write what it never wrote.

A public LLM can write any text. The demo's stand-in has practised SpeakerLM's prompts alone, and its output layer is
frozen in all stages: tokens that it never wrote, such as most digits, have rows that training pushed away, and ten of
them cannot share the probability of one place. Here it gets a token for every time of a clip in tenths of a second, as
it has one for every word of the demo, and practises the dialogues of a recipe's training data
(``launch/reason_practice.py``), with the encoder and projectors of a run. ``OUT/llm`` is the LLM, ``OUT/run`` the
run's weights as weights of this LLM; the recipe's ``model.llm.checkpoint`` must be the former.
"""

from __future__ import annotations

import argparse
import json
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
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.standins.train_llm import VOICE_GAIN
from reason_practice import LONGEST, practise, time_text
from shards.commands.parser import Parser
from shards.errors import SpeakerLMError

if TYPE_CHECKING:
    from torch import Tensor


def add_times(llm: Path, out: Path, seed: int) -> Tensor:
    """Write an LLM's folder with one more token for each time of a clip.

    A row of a time is the sum of random vectors of its digits, each with its place: times that share a digit are alike.

    Returns:
        The digits' vectors as an embedding of time has them, (40, H).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(llm))
    model: Any = AutoModelForCausalLM.from_pretrained(str(llm))
    before = len(tokenizer)
    tokenizer.add_tokens([time_text(n) for n in range(LONGEST)])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    drawn = torch.randn(40, tables[0].shape[1], generator=torch.Generator().manual_seed(seed)) / 3**0.5
    drawn[:10] = 0  # hundreds of seconds
    tenths = torch.arange(LONGEST)
    rows = drawn[10 + tenths // 100] + drawn[20 + tenths // 10 % 10] + drawn[30 + tenths % 10]
    with torch.no_grad():
        for table in tables:
            table[before:] = rows * table[:before].std()
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


def extend(recipe: Recipe, llm: Path, run: Path, out: Path, steps: int, seed: int) -> None:
    """Write ``out/llm`` and ``out/run``.

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
    digits = add_times(llm, out / "llm", seed)
    save_own_weights(out / "run" / WEIGHTS, load_file(run / WEIGHTS), base_hashes(out / "llm"))
    model: Any = build_model(recipe.model, seed=seed)
    load_own_weights(model, out / "run", may_lack=ZERO_AT_START)
    with torch.no_grad():
        model.audio_projector.time.weight.copy_(VOICE_GAIN * digits)
    practise(model, recipe, load_tokenizer(recipe.model), steps)
    save_llm(model, out / "llm")
    save_own_weights(out / "run" / WEIGHTS, own_state_dict(model), base_hashes(out / "llm"))
    (out / "done").write_text(json.dumps({"steps": steps}))


def main(argv: Sequence[str] | None = None) -> int:
    """Let a stand-in LLM practise dialogues with times."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe of Speaker-Reasoner whose training data is practised on")
    parser.add_argument("llm", type=Path, help="folder of the LLM that stage 0 made")
    parser.add_argument("run", type=Path, help="finished run of that LLM")
    parser.add_argument("out", type=Path, help="folder for llm/ and run/")
    parser.add_argument("overrides", nargs="*", help="settings of the recipe, as root=demo")
    parser.add_argument("--steps", type=int, default=600, help="micro-batches (600)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        extend(recipe, args.llm, args.run, args.out, args.steps, args.seed)
    except SpeakerLMError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
