"""The settings of a recipe, as typed dataclasses with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pipeline.stages import Base, Checkpointing


@dataclass
class EncoderConfig:
    """Speech encoder. With a checkpoint, class and sizes come from its own configuration."""

    type: str = "sensevoice"  # sensevoice: FunASR's; whisper: the encoder of transformers' Whisper
    checkpoint: str | None = None  # folder in the layout of SenseVoice (model.pt, …) or Whisper, or a hub id
    hub: str = "modelscope"  # of an id: modelscope, huggingface
    class_name: str = "SenseVoiceEncoderSmall"  # of FunASR
    config: dict[str, Any] = field(default_factory=dict)  # the class's arguments, without a checkpoint
    dropout: float | None = None  # overrides the three dropout rates of the checkpoint's config
    compile: bool = False  # its blocks by torch.compile: fewer kernels, minutes at the start
    frame_multiple: int = 1  # rows are padded to a multiple of it, in data.max_frames too; a GPU is faster with 64


@dataclass
class ProjectorConfig:
    """2 Transformer layers at the encoder's width, then a strided convolution to the LLM's."""

    layers: int = 2  # Transformer layers
    heads: int = 8  # of their attention
    ffn: int = 2048  # width of their feed-forward part
    dropout: float = 0.1  # in them
    stride: int = 2  # not in the paper
    time_embedding: bool = False  # tell the LLM when each position is heard, for stages 11 to 13; not in the paper


@dataclass
class LoraConfig:
    """LoRA on the LLM; rank and targets are not in the paper."""

    r: int = 16  # rank
    alpha: int = 32  # scale is alpha / r
    dropout: float = 0.05  # of its input
    shared_dropout: bool = False  # one mask for adapters of the same input (q, k, v; gate, up): needs less memory
    # Names of linear layers.
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class LlmConfig:
    """Any transformers causal LM with its tokenizer."""

    checkpoint: str = MISSING  # local folder or hub id
    hub: str = "huggingface"  # of an id: huggingface, modelscope
    # In training: norms, rotary embedding and SwiGLU by Liger's kernels; a GPU, pip install liger-kernel.
    liger: bool = False
    # In training: frozen linear layers in 8 bits; a GPU from Ada or Hopper on, pip install torchao.
    float8: bool = False


@dataclass
class ModelConfig:
    """SpeakerLM, or the model of another base."""

    # speakerlm; of stages 11 to 13 also qwen2.5-omni and qwen3-omni: the thinker in llm.checkpoint, and lora alone.
    base: str = "speakerlm"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    speaker_dim: int = 192  # numbers of a speaker vector
    speaker_init_std: float | None = None  # of the speaker projector's weights at the start; None: PyTorch's
    extractor: str = MISSING  # id of the speaker embedding extractor; a dataset made with another one is refused
    activation_checkpointing: Checkpointing = field(default_factory=Checkpointing)  # true: of everything

    @property
    def stride(self) -> int | Base:
        """Rule that turns audio into LLM positions, see :func:`pipeline.frames.audio_positions`."""
        return self.projector.stride if self.base == Base.SPEAKERLM else Base(self.base)


@dataclass
class DatasetConfig:
    """A packed dataset and its share of the mixture."""

    path: str = MISSING  # local folder or s3://bucket/prefix
    weight: float = 1.0  # share of micro-batches among the datasets of this stage
    epochs: int | None = None  # number of epochs in the mixture; None: no limit
    hours: float | None = None  # a seeded, nested subset; None: all of it
    exclude: str | None = None  # file with one key, session or speaker per line
    extractor: str | None = None  # whose vectors `embed` wrote next to the shards; None: those of packing


@dataclass
class ModeShares:
    """Relative frequencies of the modes of a stage with registration."""

    match: float = 1.0  # exactly the speakers of the audio are registered
    no: float = 1.0  # none is
    over: float = 1.0  # more are than speak


@dataclass
class RegistrationConfig:
    """The paper's draw in training: a third No, a third Match, a third Over with 1..max distractors."""

    mode_shares: ModeShares = field(default_factory=ModeShares)
    max_distractors: int = 50  # registered speakers who do not speak, in Over: 1 to this many
    names: str = "pools"  # "pools": drawn per sample, so that the model must read the embedding; "corpus": speaker ids
    name_pools: list[str] = field(default_factory=lambda: ["zh", "en"])  # pools of names: zh, en


@dataclass
class TaskShares:
    """Relative frequencies of the tasks of Speaker-Reasoner's stages; those that a stage lacks do not count."""

    reason: float = 1.0  # summary, observations one by one, transcript
    single: float = 1.0  # the transcript in one turn
    count: float = 0.5  # number of speakers
    genders: float = 0.5  # labels and genders of the speakers


@dataclass
class CacheConfig:
    """Entries of a speaker cache in stage R3, drawn from earlier clips of the session. None of it is in the paper."""

    share: float = 0.7  # of the samples with an earlier clip
    max_clips: int = 3  # earlier clips that entries are drawn from
    per_speaker: int = 2  # entries
    min_seconds: float = 1.0  # of an entry
    max_seconds: float = 10.0  # an entry is cut to it
    total_seconds: float = 40.0  # of all entries of a sample


@dataclass
class DialogueConfig:
    """Speaker-Reasoner's dialogues. τ is the paper's; weights and shares are ours."""

    tau: float = 0.8  # overlap from which two segments are one observation
    max_turns: int = 100  # observations of a clip; more are merged
    numbered: bool = False  # later turns name their observation, as the published 4,194 h weights expect
    decimals: int = 2  # of times, in seconds: 2 as in the paper, or 1
    tasks: TaskShares = field(default_factory=TaskShares)
    cache: CacheConfig = field(default_factory=CacheConfig)
    label_weight: float = 1.0  # in the loss: of the tokens of labels,
    time_weight: float = 1.0  # of the times of lines,
    boundary_weight: float = 1.0  # and of the boundary loss, which is added at the bounds of observations


@dataclass
class ContextConfig:
    """A line of the prompt with terms that may be said, such as names and jargon. Off by default: not in the paper."""

    share: float = 0.0  # of the samples that may get the line; 0: none, and the model does not learn to read it
    max_terms: int = 8  # of the sample's own text: 0 to this many are drawn, the others are dropped
    max_distractors: int = 16  # of other samples' texts: 0 to this many


@dataclass
class AugmentConfig:
    """Augmentation of training audio, drawn per sample and epoch. All off by default: the paper names none."""

    speeds: list[float] = field(default_factory=lambda: [1.0])  # a sample draws one; pitch moves too
    noise: str | None = None  # folder with 16 kHz mono recordings of noise
    noise_probability: float = 0.5  # share of samples that get noise
    noise_snr: list[float] = field(default_factory=lambda: [5.0, 20.0])  # dB, drawn uniformly between
    frame_masks: int = 0  # SpecAugment on the encoder's features: spans of frames (60 ms each), set to the mean
    frame_mask_width: int = 12  # widths are drawn from 0 to this
    mel_masks: int = 0  # and bands of mel channels
    mel_mask_width: int = 30  # widths are drawn from 0 to this


@dataclass
class PhaseConfig:
    """A phase of a curriculum, until the next begins. What it omits is as without a curriculum."""

    from_step: int = MISSING  # first step, counted from 1
    weights: list[float] | None = None  # of data.train, in its order; 0: not in this phase
    max_seconds: float | None = None  # longer samples are skipped in windows that begin in this phase


@dataclass
class DataConfig:
    """Datasets, and how they are packed into global steps."""

    train: list[DatasetConfig] = field(default_factory=list)
    validation: list[DatasetConfig] = field(default_factory=list)
    # Shares of the datasets are weight × hours^(1 / temperature): 1 in proportion to hours, more is more even.
    temperature: float | None = None  # null: shares are the weights
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)
    context: ContextConfig = field(default_factory=ContextConfig)  # of stages 1 to 4
    micro_batches_per_step: int = 4  # M: fixes the samples of a global step for any world size N <= M
    max_positions: int = 6000  # LLM positions per micro-batch, the paper's "6 K tokens"
    max_frames: int = 12000  # padded encoder frames per micro-batch (16.67 per second)
    window_shards: int = 4  # shards shuffled together
    curriculum: list[PhaseConfig] = field(default_factory=list)
    dialogue: DialogueConfig = field(default_factory=DialogueConfig)  # of stages 11 to 13
    encoder_calls: int = 1  # of a micro-batch; dialogues have slices of many lengths: 8 pad 7 %
    align_epochs: bool = False  # a step ends with each epoch and is saved: datasets may change there
    accept_dataset_change: bool = False  # resume with other datasets, between two of their epochs
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    workers: int = 2  # loader processes per rank
    speaker_questions: int = 0  # audio positions per turn with a speaker probe; not in the paper: data/speaker_probes
    prefetch_steps: int = 2  # global steps that loaders are ahead
    max_consecutive_replacements: int = 100  # damaged samples in a row, after which the run fails
    lengths_cache: str | None = None  # folder for token lengths of read-only datasets
    shard_cache: str | None = None  # local folder of a node for whole shards of remote datasets that fit
    shard_cache_gb: float = 100.0  # its limit, 10⁹ bytes


@dataclass
class OptimizerConfig:
    """AdamW. Betas and weight decay are not in the paper."""

    start_lr: float = 1e-5  # learning rate of the first step
    peak_lr: float = 5e-5  # after the warm-up
    final_lr: float = 1e-6  # at max_steps, after a cosine
    warmup_steps: int = 2000  # linear, from start_lr to peak_lr
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])  # of AdamW
    eps: float = 1e-8  # of AdamW
    weight_decay: float = 0.01  # of AdamW
    clip: float = 1.0  # largest norm of the gradient; 0: no limit
    lr_factors: dict[str, float] = field(default_factory=dict)  # factor of the rates above, by module: {encoder: 0.1}


@dataclass
class TrainerConfig:
    """Training loop, checkpoints and validation."""

    max_steps: int = 1_000_000  # global steps
    log_every: int = 10  # steps between two status lines
    validate_every: int = 10_000  # steps between two validations
    validation_batches: int = 50  # micro-batches, over all ranks
    # Of the run's time: the decode is skipped if validation would take more; 1: never.
    validation_share: float = 0.05
    # Of the validation sets, decoded in each mode of the stage, or as dialogues, and scored; 0: none.
    decode_clips: int = 0
    decode_batch: int = 8  # clips that are decoded together
    decode_tokens: int = 1024  # longest answer, or reply of a dialogue; audio limits most to less
    decode_how: str = "auto"  # local: with a copy of the weights per rank; together: no memory; auto: what fits
    decode_normaliser: str = "auto"  # of the scores, by script; paper-zh, en, mixed, m2met: see docs/scores.md
    save_every: int = 10_000  # steps between two checkpoints
    keep_last: int = 3  # checkpoints that are kept
    keep_best: int = 1  # checkpoints with the lowest validation figure that are also kept
    best_by: str = "loss"  # that figure: loss, or cer, cpcer, sacer, der (dialogues) of the small decode
    keep_every: int = 0  # checkpoints whose step is a multiple of it are always kept; 0: none
    save_in_background: str = "auto"  # auto: if the machine has memory for it; always, never
    upload: str | None = None  # s3://bucket/prefix or a folder that gets a copy of every checkpoint, under RUN/STAGE
    max_bad_steps: int = 10  # consecutive steps with a loss or gradient that is not finite, after which the run fails
    save_bad_batches: bool = False  # write the micro-batches of skipped steps and spikes to OUTPUT/bad
    deterministic: bool = False  # deterministic kernels: slower, equal to the bit on the same cards
    module_norms: bool = True  # gradient norm of each module in logged steps
    overfit_one_batch: bool = False  # repeat the first global step: its loss must go to 0
    start_timeout_seconds: float = 3600.0  # without progress before the end of the first step: a hang
    timeout_seconds: float = 900.0  # the same afterwards, for a step, a save or a validation batch
    time_limit_seconds: float | None = None  # after the start of the process: save, stop and ask to be restarted
    stop_margin_seconds: float = 300.0  # under Slurm, stop so long before the job's end; at most a quarter of its time


@dataclass
class MonitorConfig:
    """DeepSpeed's monitors, in addition to the run's own logs; they get the logged steps."""

    tensorboard: bool = False  # event files in OUTPUT/monitor
    csv: bool = False  # CSV files in OUTPUT/monitor
    wandb: bool = False  # Weights & Biases
    wandb_project: str = "speakerlm"  # its project
    wandb_team: str | None = None  # its team
    wandb_group: str | None = None  # its group
    wandb_offline: bool = False  # keep it in OUTPUT/monitor; `wandb sync` sends it


@dataclass
class Recipe:
    """All settings of a run. Saved, resolved, with every checkpoint."""

    name: str = MISSING  # of the recipe, in logs and reports
    stage: int = MISSING  # 1 to 4: SpeakerLM; 11 to 13, or R1 to R3: Speaker-Reasoner; 0: a corrector of text
    output: str = MISSING  # folder of this stage's run
    root: str = "."  # for ${root}/… in other settings, so that one override moves a whole run
    # Weights to start from: finished run, exported folder, Hugging Face id (owner/name@revision) or PEFT adapter.
    init_from: str | None = None  # a stage that starts from another needs it
    init_from_any: bool = False  # take its weights also without a done marker or from another stage (--init-from)
    seed: int = 1  # of every draw
    # Its configuration file; a path in a checkout or relative to where the run starts.
    deepspeed: str = "ds_configs/zero3.json"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
