"""Exceptions of the whole project.

Every error that a user can cause says *what* is wrong, *where* (file, shard, key, rank) and *what to do*. Code that
can continue after a fault catches the narrowest class; only a command's entry point catches :class:`SpeakerLMError`: it
prints the message without a traceback and exits with code 1.
"""


class SpeakerLMError(Exception):
    """Base class of all errors raised on purpose."""


class ConfigError(SpeakerLMError):
    """A recipe, an option or an environment that cannot be used."""


class DataError(SpeakerLMError):
    """Input data that cannot be used."""


class AudioError(DataError):
    """Audio that is missing, empty, truncated, undecodable or in an unsupported format."""


class ManifestError(DataError):
    """A recording or segment that contradicts itself or its corpus."""


class ShardError(DataError):
    """A shard whose bytes disagree with its index. Names shard, key and offset."""


class SpeakerError(DataError):
    """An embedding, enrolment clip or speaker bank that cannot be used."""


class StorageError(SpeakerLMError):
    """Disk or object storage failed after retries. Never the fault of one sample."""


class FetchError(SpeakerLMError):
    """A package or weight file that cannot be downloaded, or whose hash differs from the pinned one."""


class PlanError(SpeakerLMError):
    """A plan that cannot be made or resumed: a sample over the budget, a changed dataset."""


class StoppingError(SpeakerLMError):
    """A request to a service that is ending. The request is not at fault: a later one may be answered."""


class ModelError(SpeakerLMError):
    """Weights, configuration or tokenizer that do not fit together."""


class CheckpointError(SpeakerLMError):
    """A checkpoint that is damaged, or belongs to another stage, base or recipe."""


class TrainingError(SpeakerLMError):
    """Training cannot continue: non-finite numbers, a hang, ranks that disagree."""


class ScoreError(SpeakerLMError):
    """References and hypotheses that cannot be compared."""
