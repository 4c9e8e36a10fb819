"""The cluster scripts, run with stand-ins for the cluster's own commands."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SLURM, TPU = "scripts/slurm/train.sbatch", "scripts/tpu/train.sh"
HOSTS = {
    "one": ("10.0.0.7", "0"),
    "two": ("10.0.0.7,10.0.0.8", "1"),
    "old": ("a:1:10.0.0.7,b:2:10.0.0.8", "1"),
}


@pytest.fixture
def launch(tmp_path):
    """Runs a script with stand-ins on the PATH; gives its code and what the stand-ins were told."""

    def stand_in(name, body):
        file = tmp_path / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(0o755)

    def start(script, *argv, stand_ins, **env):
        for name, body in stand_ins.items():
            stand_in(name, body)
        known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), **env}
        (tmp_path / "log").write_text("")
        done = subprocess.run(
            ["bash", ROOT / script, *argv], env=known, capture_output=True, text=True
        )
        return done.returncode, (tmp_path / "log").read_text().splitlines(), done.stderr

    return start


@pytest.mark.parametrize("script", [SLURM, TPU, ".ci/run"])
def test_bash_can_read_it(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", [SLURM, TPU])
def test_too_few_words(launch, script):
    code, _, told = launch(script, "config.py", stand_ins={})
    assert code == 2
    assert "usage: " in told


@pytest.mark.parametrize("ends", [0, 1, 143])
def test_slurm_goes_back_into_the_queue_only_when_it_was_stopped(launch, ends):
    code, log, _ = launch(
        SLURM,
        "c.py",
        "my run",
        "--train.lr",
        "0.1",
        stand_ins={
            "srun": f'echo "$JAX_LOCAL_DEVICE_IDS" "${{@:3}}" >>"$LOG"; exit {ends}',
            "scontrol": 'echo scontrol "$@" >>"$LOG"',
        },
        SLURM_GPUS_ON_NODE="4",
        SLURM_JOB_ID="17",
    )
    assert code == ends
    assert log[0] == "0,1,2,3 jaxdet train c.py --out my run --resume --train.lr 0.1"
    assert log[1:] == (["scontrol requeue 17"] if ends == 143 else [])


@pytest.mark.parametrize("hosts", HOSTS)
def test_tpu_hosts_find_each_other(launch, hosts):
    told, number = HOSTS[hosts]
    curl = f'case "$*" in *endpoints) echo {told};; *number) echo {number};; *) exit 22;; esac'
    where = "$JAXDET_COORDINATOR $JAXDET_PROCESSES $JAXDET_PROCESS"
    code, log, _ = launch(
        TPU,
        "c.py",
        "run",
        "--train.lr",
        "0.1",
        stand_ins={"curl": curl, "jaxdet": f'echo "{where}" "$@" >>"$LOG"'},
    )
    wanted = "  " if hosts == "one" else "10.0.0.7:8476 2 1"
    assert (code, log) == (0, [f"{wanted} train c.py --out run --resume --train.lr 0.1"])


def test_tpu_without_its_metadata_is_an_error(launch):
    code, log, _ = launch(TPU, "c.py", "run", stand_ins={"curl": "exit 6", "jaxdet": "true"})
    assert code != 0
    assert log == []
