"""The recipes of deploy/ as far as a machine without Slurm, Docker, Kubernetes and TPUs can run them."""

import fnmatch
import math
import os
import pathlib
import re
import signal
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data.errors import RESUMABLE, OverBudgetError, UserError

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# One task a node, as srun starts them: its number, the node list and the counts; it passes signals on.
SRUN = """\
import os, signal, subprocess, sys
nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
shared = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(nodes), "SLURM_STEP_NUM_NODES": str(nodes)}
shared |= {"SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": f"1(x{nodes})" if nodes > 1 else "1"}
tasks = [subprocess.Popen(sys.argv[1:], env=os.environ | shared | {"SLURM_PROCID": str(i)}) for i in range(nodes)]
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
print("tasks run", flush=True)
sys.exit(max(task.wait() for task in tasks))
"""
# In place of training: joins the others where it is asked to, says what it is, and ends as $ENDS says.
TASK = """\
import os, signal, sys, time
sys.path.insert(0, {root!r})
import jax
from unimedi_jax import hosts
if "--config.distributed.coordinator=auto" in sys.argv:
    hosts.connect("auto", timeout=20)
print(f"process {{jax.process_index()}} of {{jax.process_count()}}: {{' '.join(sys.argv[1:])}}", flush=True)
if os.environ["ENDS"] == "on SIGTERM":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    print("ready", flush=True)
    time.sleep(60)
sys.exit(int(os.environ["ENDS"]))
"""


def program(folder: pathlib.Path, name: str, text: str) -> pathlib.Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def slurm(tmp_path):
    """`slurm(nodes, ends, *settings)` starts the batch script with stand-ins in its path."""
    program(tmp_path, "srun", f"#!{sys.executable}\n{SRUN}")
    program(tmp_path, "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
    task = program(tmp_path, "task.py", TASK.format(root=str(ROOT)))
    started = []

    def start(nodes: int, ends: str, *settings: str) -> subprocess.Popen:
        job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": str(nodes), "ENDS": ends}
        environment = os.environ | job | {"UNIMEDI": f"{sys.executable} {task}", "JAX_NUM_CPU_DEVICES": "1"}
        environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        command = ["bash", DEPLOY / "slurm.sbatch", *settings]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_slurm_on_one_node_and_on_two(slurm, tmp_path):
    log = slurm(1, "0", "--config=a.py", "--workdir=b c").communicate()[0]
    assert "process 0 of 1: --config=a.py --workdir=b c\n" in log
    process = slurm(2, "0", "--config=a.py")
    log = process.communicate()[0]
    assert process.returncode == 0
    lines = [f"process {i} of 2: --config=a.py --config.distributed.coordinator=auto" for i in (0, 1)]
    assert all(line in log for line in lines), log
    assert not (tmp_path / "scontrol.log").exists()


def test_a_job_that_was_stopped_is_queued_again_and_a_failed_one_is_not(slurm, tmp_path):
    process = slurm(1, "on SIGTERM")
    for line in process.stdout:
        if line == "ready\n":
            break
    children = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(process.pid)], text=True).split()
    process.send_signal(signal.SIGTERM)  # the shell waits on
    os.kill(int(children[0]), signal.SIGTERM)  # srun, which passes it on
    assert process.wait(timeout=60) == RESUMABLE
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {os.getpid()}\n"
    process = slurm(1, "2")
    process.communicate()
    assert process.returncode == 2
    assert (tmp_path / "scontrol.log").read_text().count("requeue") == 1


# Stands for `gcloud`: a state in a file, and one line of $ENDS for each time that training is started.
GCLOUD = """#!/bin/bash
cd {folder}
echo "$*" >> calls
case "$*" in
    *" describe "*)
        asked=$(grep -c " describe " calls)
        case " $OUTAGES " in *" $asked "*) echo "ERROR: (gcloud) UNAVAILABLE: no network" >&2; exit 1 ;; esac
        cat state 2>/dev/null || {{ echo "ERROR: (gcloud) NOT_FOUND: Resource was not found." >&2; exit 1; }} ;;
    *" create "*) echo ACTIVE > state ;;
    *" delete "*) rm state ;;
    *main.py*)
        read -r line < ends
        sed -i 1d ends
        [ "$line" = preempted ] && echo SUSPENDED > state && exit 255
        echo "worker 0: unimedi ended with $line"
        echo "worker 1: unimedi ended with $line" ;;
esac
"""


@pytest.mark.parametrize(
    ("ends", "outages", "code", "requests", "left"),
    [
        (["preempted", "75", "0"], "", 0, 2, False),
        (["2"], "", 2, 1, True),
        (["0"], "", 0, 1, False),
        (["75", "0"], "2 4 5", 0, 1, False),
    ],
)
def test_tpu_vms_are_asked_for_again_until_the_run_has_ended(ends, outages, code, requests, left, tmp_path):
    program(tmp_path, "gcloud", GCLOUD.format(folder=tmp_path))
    (tmp_path / "ends").write_text("".join(f"{line}\n" for line in ends))
    variables = {"PROJECT": "p", "ZONE": "z", "TYPE": "v5litepod-16", "RUNTIME": "v2-alpha-tpuv5-lite", "POLL": "0"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUTAGES": outages}
    command = [
        DEPLOY / "tpu_vm.sh",
        "name",
        "gs://b/unimedi.tar.gz",
        "--config=configs/pretrain.py",
        "--workdir=gs://b/a b",
    ]
    done = subprocess.run(command, env=os.environ | variables | path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    created = [line for line in calls if " create " in line]
    assert len(created) == requests
    assert "--spot" in created[0]
    assert "--accelerator-type=v5litepod-16" in created[0]
    trained = next(line for line in calls if "main.py" in line)
    assert r"--workdir=gs://b/a\ b --config.distributed.coordinator=auto" in trained
    assert "--worker=all" in trained
    assert (tmp_path / "state").exists() == left, "machines that need a person stay, others cost nothing more"


def test_without_an_answer_no_tpu_is_asked_for(tmp_path):
    program(tmp_path, "gcloud", GCLOUD.format(folder=tmp_path))
    variables = {"PROJECT": "p", "ZONE": "z", "TYPE": "t", "RUNTIME": "r", "POLL": "0", "OUTAGES": "1"}
    variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    command = [DEPLOY / "tpu_vm.sh", "name", "gs://b/unimedi.tar.gz"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "UNAVAILABLE" in done.stderr
    assert " create " not in (tmp_path / "calls").read_text()


def test_the_jobset_fits_the_schema_and_the_program():
    manifest = yaml.safe_load((DEPLOY / "jobset.yaml").read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (part,) = manifest["spec"]["replicatedJobs"]
    assert part.keys() == {"name", "replicas", "template"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **part["template"]}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    wrong = job | {"spec": job["spec"] | {"paralelism": 4}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)

    spec = job["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert set(rule["onExitCodes"]["values"]) == {UserError.exit_code, OverBudgetError.exit_code}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert pod["securityContext"]["runAsNonRoot"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    keys = [argument.partition("=")[0].removeprefix("--config.") for argument in container["args"]]
    known = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in known for key in keys if not key.startswith("--")), keys


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_image_is_pinned_and_has_no_rights():
    steps = instructions()
    assert [re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+( AS \w+)?", what) for step, what in steps if step == "FROM"]
    names = [step for step, _ in steps]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert dict(steps)["USER"] not in ("root", "0")
    assert dict(steps)["ENTRYPOINT"].startswith("["), "a shell in between would keep SIGTERM to itself"


def test_every_layer_finds_its_files_and_none_takes_secrets():
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    chosen = [line[1:] for line in ignore if line.startswith("!")]
    copied = [what.split()[:-1] for step, what in instructions() if step == "COPY" and "--from" not in what]
    for pattern in [name for names in copied for name in names if name != "."] + chosen:
        assert list(ROOT.glob(pattern)), pattern
    assert "*" in ignore, "what is not named stays out"
    assert not any(fnmatch.fnmatch(name, pattern) for name in ("records", "runs", ".env") for pattern in chosen)
    needed = {"setup.py", "pyproject.toml", "unimedi_jax", "data", "configs", "README.md", "LICENSE"}
    assert needed <= set(chosen)


def test_the_images_versions_are_those_that_the_requirements_allow():
    lines = (DEPLOY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name in ("requirements", "requirements-cloud", "requirements-cuda", "requirements-tpu"):
        for line in (ROOT / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            text = line.partition("#")[0].strip()
            if text and not text.startswith("-r"):
                requirement = Requirement(text)
                version = pinned[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version, prereleases=True), f"{requirement} and {version}"
