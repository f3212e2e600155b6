"""Launchers' environments, hosts and cards."""

from __future__ import annotations

from typing import ClassVar

import pytest

from pipeline.ranks.launch import check_card, first_host, launcher_environment
from shards.errors import ConfigError


def test_rank_without_a_gpu_is_refused_with_advice() -> None:
    check_card(3, 4)
    with pytest.raises(ConfigError, match=r"local rank 3 sees 1 GPU\(s\).*--gpus-per-node"):
        check_card(3, 1)


class TestLaunchers:
    DEEPSPEED: ClassVar = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    SRUN: ClassVar = {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_JOB_ID": "41234",
    }

    def test_deepspeed_and_torchrun_win_over_slurm(self) -> None:
        assert launcher_environment({**self.SRUN, **self.DEEPSPEED}) == self.DEEPSPEED

    def test_srun(self) -> None:
        expected = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": "21234"}
        assert launcher_environment(self.SRUN) == expected

    def test_plain_python_in_a_batch_script_is_alone(self) -> None:
        env = {k: v for k, v in self.SRUN.items() if k != "SLURM_STEP_ID"} | {"SLURM_NTASKS": "16"}
        assert launcher_environment(env)["WORLD_SIZE"] == "1"

    def test_incomplete_environment_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="MASTER_PORT"):
            launcher_environment({"RANK": "0", "WORLD_SIZE": "2"})

    @pytest.mark.parametrize(
        ("nodes", "first"), [("gpu[03-05,9],cpu1", "gpu03"), ("a,b", "a"), ("n1", "n1"), ("x[7]", "x7")]
    )
    def test_first_host(self, nodes: str, first: str) -> None:
        assert first_host(nodes) == first
