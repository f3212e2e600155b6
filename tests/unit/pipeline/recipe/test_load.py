"""Recipe files, overrides and differences."""

from operator import attrgetter
from pathlib import Path

import pytest

from pipeline.recipe.load import changes, dump_recipe, load_recipe, load_recipes, save_recipe
from pipeline.recipe.schema import Recipe
from pipeline.stages import Checkpointing
from shards.errors import ConfigError

MINIMAL = """
name: x
stage: 1
output: out
model: {extractor: campplus, llm: {checkpoint: llm}}
data: {train: [{path: data}]}
trainer: {max_steps: 100}
optimizer: {warmup_steps: 10}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


def test_defaults_and_overrides(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["optimizer.peak_lr=3e-4", "model.lora.r=8"])
    assert recipe.optimizer.peak_lr == 3e-4
    assert recipe.model.lora.r == 8
    assert recipe.optimizer.start_lr == 1e-5
    assert recipe.data.train[0].weight == 1.0


def test_extending_file_overrides_its_base(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    special = tmp_path / "sub" / "special.yaml"
    special.write_text("extends: ../recipe.yaml\nname: y\noptimizer: {warmup_steps: 20}\n")
    recipe = load_recipe(special)
    assert (recipe.name, recipe.optimizer.warmup_steps, recipe.output) == ("y", 20, "out")


def test_saved_recipe_reads_back_equal(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe
    assert isinstance(recipe, Recipe)
    assert "peak_lr" in dump_recipe(recipe)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.peak_learning_rate=1", ["optimizer.peak_learning_rate", "optimizer.peak_lr"]),
        ("trainer.max_step=3", ["trainer.max_steps"]),
        ("optimiser.peak_lr=1", ["optimiser.peak_lr", "did you mean optimizer.peak_lr?"]),
        ("peak_lr=1", ["peak_lr", "did you mean optimizer.peak_lr?"]),
        ("optimizer.lr_factor.encoder=0.1", ["did you mean optimizer.lr_factors?"]),
        ("modle.lora.r=1", ["did you mean model.lora.r?"]),
        ("zzz=1", ["zzz", "known keys"]),
        ("optimizer.peak_lr=fast", ["optimizer.peak_lr", "fast"]),
        ("nonsense", ["section.key=value"]),
        ("data.registration.mode_shares=[1, 1]", ["mode_shares", "three", "Match, No, Over"]),
        ("data.registration.mode_shares=[1, a, 1]", ["mode_shares.no", "a"]),
        ("data.registration.mode_shares={match: 1, regist: 2}", ["mode_shares.regist"]),
        ("data.registration.mode_shares.overs=1", ["mode_shares.overs", "did you mean", "mode_shares.over?"]),
        ("output=${rot}/x", ["output", "rot"]),
        ("output=${", ["output=${"]),
        ("output=[", ["output=["]),
        ("data.validation=[{path:", ["data.validation=[{path:", "in quotes"]),
        ("data.train=[{pth: a}]", ["key pth", "did you mean data.train.0.path?"]),
        ("data.train.0.wieght=2", ["key data.train.0.wieght;", "did you mean data.train.0.weight?"]),
        ("data.train=[{path: a}, {path: b, wieght: 2}]", ["key wieght", "did you mean data.train.0.weight?"]),
    ],
)
def test_unreadable_settings_are_refused(recipe_file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as e:
        load_recipe(recipe_file, [override])
    assert all(w in str(e.value) for w in words), str(e.value)
    assert "\n" not in str(e.value)


def test_missing_files_and_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe at"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="is a folder: name a file in it"):
        load_recipe(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="YAML"):
        load_recipe(broken)
    unset = tmp_path / "unset.yaml"
    unset.write_text(MINIMAL.replace("output: out", ""))
    with pytest.raises(ConfigError, match="output has no value"):
        load_recipe(unset)


@pytest.mark.parametrize("base", ["3", "[a.yaml, b.yaml]", "{a: b}", "true", "''", "${root}/a.yaml", "???"])
def test_extends_of_another_type_is_one_line(recipe_file: Path, base: str) -> None:
    recipe_file.write_text(f"extends: {base}\n{MINIMAL}")
    with pytest.raises(ConfigError, match=r"recipe\.yaml.*extends") as e:
        load_recipe(recipe_file)
    assert "\n" not in str(e.value)


def test_circle_of_extends_names_the_two_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, base in (("a.yaml", "sub/b.yaml"), ("sub/b.yaml", "../c.yaml"), ("c.yaml", "a.yaml")):
        (tmp_path / name).write_text(f"extends: {base}\n{MINIMAL}")
    with pytest.raises(ConfigError, match=r"c\.yaml: extends .*a\.yaml, which extends this file itself"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "self.yaml").write_text(f"extends: ./self.yaml\n{MINIMAL}")
    with pytest.raises(ConfigError, match=r"self\.yaml: extends .*self\.yaml, which extends this file itself"):
        load_recipe(tmp_path / "self.yaml")


def test_missing_base_names_the_file_that_extends_it(recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(f"extends: absent.yaml\n{MINIMAL}")
    with pytest.raises(ConfigError, match=r"no recipe at .*absent\.yaml, which .*recipe\.yaml extends"):
        load_recipe(recipe_file)
    recipe_file.write_text(f"extends: .\n{MINIMAL}")
    with pytest.raises(ConfigError, match=r", which .*recipe\.yaml extends is a folder"):
        load_recipe(recipe_file)


def test_two_files_may_extend_one(recipe_file: Path, tmp_path: Path) -> None:
    """The same base twice is no circle."""
    (tmp_path / "a.yaml").write_text("extends: recipe.yaml\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nseed: 2\n")
    assert (load_recipe(tmp_path / "b.yaml").name, load_recipe(tmp_path / "a.yaml").seed) == ("a", 1)


def test_home_is_expanded_in_every_local_path(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    paths = [
        "init_from", "deepspeed", "model.encoder.checkpoint", "model.llm.checkpoint", "data.augment.noise",
        "data.lengths_cache", "data.shard_cache", "trainer.upload",
    ]  # fmt: skip
    overrides = [f"{key}=~/a/b.c" for key in paths]
    recipe = load_recipe(
        recipe_file,
        [*overrides, "root=~/r", "output=${root}/run~", "data.train=[{path: ~/d, exclude: ~/e}, {path: 's3://b/~/p'}]"],
    )
    assert recipe.root == f"{home}/r"
    assert recipe.output == f"{home}/r/run~"
    assert {attrgetter(key)(recipe) for key in paths} == {f"{home}/a/b.c"}
    assert (recipe.data.train[0].path, recipe.data.train[0].exclude) == (f"{home}/d", f"{home}/e")
    assert recipe.data.train[1].path == "s3://b/~/p"
    (home / "base.yaml").write_text(MINIMAL)
    recipe_file.write_text("extends: ~/base.yaml\nname: y\n")
    assert load_recipe(recipe_file).name == "y"
    with pytest.raises(ConfigError, match=r"output is '~no-such-user/x': no home folder of that name"):
        load_recipe(recipe_file, ["output=~no-such-user/x"])


def test_every_path_of_the_schema_is_expanded() -> None:
    """A setting that names a file or folder is in the table; the others hold no path."""
    from pipeline.recipe.home import PATHS
    from pipeline.recipe.load import _known_keys

    paths = ("output", "root", "init_from", "deepspeed", "checkpoint", "noise", "cache", "upload", "folder", "file")
    named = {key for key in _known_keys(Recipe) if key.rpartition(".")[2].endswith(paths)}
    assert named == set(PATHS)


def test_stages_load_their_files_in_order(tmp_path: Path) -> None:
    for n in (1, 2, 3):
        (tmp_path / f"stage{n}.yaml").write_text(
            MINIMAL.replace("stage: 1", f"stage: {n}").replace("out\n", "out/stage${stage}\n")
            + f"init_from: out/{n - 1}"
        )
    assert [r.output for r in load_recipes(tmp_path, "2-3")] == ["out/stage2", "out/stage3"]
    assert [r.stage for r in load_recipes(tmp_path / "stage1.yaml", "2")] == [2]
    first, second = load_recipes(tmp_path, "2-3", init_from="elsewhere")
    assert (first.init_from, first.init_from_any) == ("elsewhere", True)
    assert (second.init_from, second.init_from_any) == ("out/2", False)


def test_stages_of_the_reasoner_by_their_own_names(tmp_path: Path) -> None:
    for n in (11, 12):
        named = MINIMAL.replace("stage: 1", f"stage: R{n - 10}").replace("out\n", "out/stage${stage}\n")
        (tmp_path / f"stage{n}.yaml").write_text(named + "init_from: out/before")
    for stages in ("R1-R2", "r1-12", "11-12"):
        assert [r.stage for r in load_recipes(tmp_path, stages)] == [11, 12]
    assert load_recipe(tmp_path / "stage11.yaml", ["stage=R3"]).output == "out/stage13"
    with pytest.raises(ConfigError, match="there are stages"):
        load_recipe(tmp_path / "stage11.yaml", ["stage=R4"])


@pytest.mark.parametrize(
    ("stages", "overrides", "message"),
    [
        ("4-2", [], "write one"),
        ("a", [], "write one"),
        ("R2-R1", [], "write one"),
        ("1-", [], "write one"),
        ("1-2", ["output=same"], "share an output"),
    ],
)
def test_invalid_ranges_of_stages_are_refused(tmp_path: Path, stages: str, overrides: list[str], message: str) -> None:
    for n in (1, 2):
        (tmp_path / f"stage{n}.yaml").write_text(MINIMAL.replace("stage: 1", f"stage: {n}") + "init_from: x")
    with pytest.raises(ConfigError, match=message):
        load_recipes(tmp_path, stages, overrides)


def test_changes_between_recipes_have_dotted_names(recipe_file: Path) -> None:
    old = dump_recipe(load_recipe(recipe_file))
    assert changes(old, load_recipe(recipe_file)) == {}
    new = load_recipe(recipe_file, ["optimizer.peak_lr=1", "trainer.upload=s3://b/p"])
    assert changes(old, new) == {"optimizer.peak_lr": (5e-5, 1.0), "trainer.upload": (None, "s3://b/p")}
    assert changes(old.replace("seed: 1\n", ""), new)["seed"] == (None, 1)  # a setting that did not exist then


def test_list_of_mode_shares_in_earlier_recipes_is_read(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["data.registration.mode_shares={match: 1, no: 2, over: 0.5}"])
    saved = dump_recipe(recipe)
    now = "    mode_shares:\n      match: 1.0\n      'no': 2.0\n      over: 0.5\n"
    assert now in saved
    earlier = saved.replace(now, "    mode_shares:\n    - 1.0\n    - 2.0\n    - 0.5\n")
    assert changes(earlier, recipe) == {}
    (tmp_path / "earlier.yaml").write_text(earlier)
    assert load_recipe(tmp_path / "earlier.yaml") == recipe
    assert load_recipe(recipe_file, ["data.registration.mode_shares=[1, 2, 0.5]"]) == recipe
    other = load_recipe(recipe_file, ["data.registration.mode_shares.no=3"])
    assert changes(earlier, other)["data.registration.mode_shares.no"] == (2.0, 3.0)


def test_checkpointing_of_all_or_nothing_is_still_read(recipe_file: Path, tmp_path: Path) -> None:
    on = load_recipe(recipe_file, ["model.activation_checkpointing=true"])
    assert on.model.activation_checkpointing == Checkpointing(encoder=True, llm_every=1)
    assert load_recipe(recipe_file, ["model.activation_checkpointing=false"]) == load_recipe(recipe_file)
    saved = dump_recipe(on)
    now = "  activation_checkpointing:\n    encoder: true\n    llm_every: 1\n"
    assert now in saved
    earlier = saved.replace(now, "  activation_checkpointing: true\n")
    assert changes(earlier, on) == {}
    (tmp_path / "earlier.yaml").write_text(earlier)
    assert load_recipe(tmp_path / "earlier.yaml") == on
    half = load_recipe(tmp_path / "earlier.yaml", ["model.activation_checkpointing.llm_every=2"])
    assert half.model.activation_checkpointing == Checkpointing(encoder=True, llm_every=2)
    assert changes(earlier, half) == {"model.activation_checkpointing.llm_every": (1, 2)}
