"""The kind of answers that a model on disk was trained for."""

from __future__ import annotations

from pathlib import Path

from pipeline.dialogue.build import DialogueRules
from pipeline.model.exported import exported_config


def dialogue_rules(folder: Path) -> DialogueRules | None:
    """Return the rules of the dialogues that a run or an exported model was trained for; None: it has no dialogues.

    Raises:
        ModelError, ConfigError: neither a run nor an exported model.
    """
    if (folder / "config.yaml").exists():
        from pipeline.recipe.load import load_recipe
        from pipeline.stages import stage_of

        recipe = load_recipe(folder / "config.yaml")
        return DialogueRules(numbered=recipe.data.dialogue.numbered) if stage_of(recipe.stage).tasks else None
    stated = exported_config(folder).get("dialogue")
    return DialogueRules(numbered=bool(stated.get("numbered"))) if isinstance(stated, dict) else None
