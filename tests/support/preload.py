"""Modules that the fork server of :mod:`tests.support.distributed` imports once, so that no rank spends CPU on them."""

import gc
from importlib import import_module

MODULES = (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.utils.pin_memory",
    "peft.utils.transformers_weight_conversion",
    "torch._dynamo.backends.debugging",
    "torch._inductor.compile_fx",
    "torch.testing",
    "transformers.models.qwen2.modeling_qwen2",
    "pipeline.cards",
    "pipeline.data.loader",
    "pipeline.decode.test_set",
    "pipeline.model.corrector",
    "pipeline.model.modeling_speakerlm",
    "pipeline.train.run_stage",
    "pipeline.train.stage_data",
    "shards.workers",
    "tests.support.toy",
    "tests.support.training",
)
gc.disable()  # hardly anything of what imports make is garbage
for name in MODULES:
    import_module(name)
import_module("pipeline.model.sensevoice_encoder").encoder_class("SenseVoiceEncoderSmall")  # imports it from funasr
gc.enable()
gc.freeze()  # DeepSpeed collects garbage for each engine: a rank's collector need not walk through all modules
