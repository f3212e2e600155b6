"""The interface of a speech encoder's module, and how a recipe's ``model.encoder.type`` finds it.

It is a module of ``pipeline/model/encoders``, or an entry point of the group ``speakerlm.encoders``:
docs/extending/encoder.md has an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shards.plugins import load_plugin, plugin_names

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig

GROUP = "encoders"
# The code of an exported folder runs without this package: encoders that it does not carry are entry points there.
PACKAGE = "pipeline.model.encoders" if __name__.startswith("pipeline.") else None


@dataclass(frozen=True)
class EncoderShape:
    """Everything that determines an encoder's shape and its features, without weights."""

    class_name: str
    encoder_conf: dict[str, Any]
    frontend_conf: dict[str, Any] = field(default_factory=dict)
    shift: list[float] = field(default_factory=list)  # added to the features
    scale: list[float] = field(default_factory=list)  # then multiplied


class EncoderCheckpoint(Protocol):
    """An :class:`EncoderShape` as a checkpoint folder describes it, and its weights."""

    @property
    def folder(self) -> Path:
        """The folder that was read."""

    @property
    def class_name(self) -> str:
        """Name of the encoder's class, as SpeakerLMConfig keeps it."""

    @property
    def encoder_conf(self) -> dict[str, Any]:
        """Arguments of the class."""

    @property
    def frontend_conf(self) -> dict[str, Any]:
        """Settings of the frontend."""

    @property
    def shift(self) -> list[float]:
        """Added to the features; empty where the frontend needs none."""

    @property
    def scale(self) -> list[float]:
        """Multiplied with the shifted features."""

    def encoder_state(self) -> dict[str, Tensor]:
        """Read the weights, under the encoder's own names."""


class EncoderPlugin(Protocol):
    """The names that a module of ``pipeline/model/encoders``, or the object of an entry point, defines."""

    CLASS_NAME: str | None  # of an encoder without checkpoint; None: the recipe's model.encoder.class_name
    FILES: tuple[str, ...]  # patterns of a checkpoint folder's files; the first is its configuration
    DROPOUTS: tuple[str, ...]  # names of the dropout rates in the class's arguments
    FEATURE_WIDTH: int  # length of shift and scale where no checkpoint gives them; 0: the frontend takes none
    SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]]  # class and arguments of published checkpoints, for preflight
    REQUIRES: tuple[str, ...]  # packages that an exported model needs for this encoder

    def read_checkpoint(self, folder: Path) -> EncoderCheckpoint:
        """Read a checkpoint folder's configuration."""

    def build_frontend(self, config: SpeakerLMConfig) -> Any:
        """A module ``(waveforms (A, S), lengths) → (features (A, F, width), frames)``; has ``stacked``."""

    def build_encoder(self, config: SpeakerLMConfig) -> Any:
        """A module ``(features, frames) → (A, F, output_size)`` with random weights.

        It has ``output_size``, ``width``, ``blocks``, ``states``, ``longest``, ``activation_checkpointing`` and
        ``load_checkpoint``, as :class:`pipeline.model.whisper_encoder.WhisperSpeechEncoder` has them; ``repeated``
        only for ``model.encoder.compile``.
        """


def find_encoder(name: str) -> EncoderPlugin:
    """Import an encoder's module by the name that recipes use.

    Raises:
        ConfigError: no encoder has this name, or its package cannot be imported.
    """
    plugin: EncoderPlugin = load_plugin(GROUP, name, PACKAGE)
    return plugin


def encoder_names() -> list[str]:
    """List the values that ``model.encoder.type`` can take."""
    return plugin_names(GROUP, PACKAGE)


def shape_without_checkpoint(plugin: EncoderPlugin, class_name: str, conf: Mapping[str, Any]) -> EncoderShape:
    """The shape of an encoder that no checkpoint describes: its features pass unchanged."""
    width = plugin.FEATURE_WIDTH
    return EncoderShape(class_name, dict(conf), {}, [0.0] * width, [1.0] * width)
