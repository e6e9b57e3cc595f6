"""The files of cluster/manifests against the schemas and linters of those that read them, and against one another."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "cluster" / "manifests"
BIN = Path(sys.executable).parent
KUBERNETES = "1.34"
SCHEMAS = yaml.safe_load(Path(__file__).with_name("kuberay.yaml").read_text())
CUSTOM = ("raycluster.yaml", "rayjob.yaml")
PINS = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.M))


def _load(name: str) -> Any:
    return yaml.safe_load((MANIFESTS / name).read_text())


def _cluster(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"].get("rayClusterSpec", document["spec"])
    return found


def _groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _validate(document: dict[str, Any]) -> None:
    """Check a custom resource by KubeRay's fields, and its pods by Kubernetes' strict schema."""
    jsonschema.validate(document, SCHEMAS[document["kind"]] | {"definitions": SCHEMAS["definitions"]})
    for group in _groups(_cluster(document)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | group["template"]
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_resources_match_their_schemas(name: str) -> None:
    _validate(_load(name))


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "headGroupSpec", "template", "spec", "toleration"),
        ("spec", "headGroupSpec", "template", "spec", "containers", 0, "image_name"),
        ("spec", "workerGroupSpecs", 0, "maxReplica"),
        ("spec", "autoscaling"),
    ],
)
def test_a_misspelled_field_does_not_pass(path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(_load("raycluster.yaml"))
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = "x"
    with pytest.raises(jsonschema.ValidationError):
        _validate(document)


def test_the_storage_matches_kubernetes_schema() -> None:
    documents = list(yaml.safe_load_all((MANIFESTS / "storage.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "Secret"]
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_job_has_the_cluster_of_the_other_file() -> None:
    assert _load("rayjob.yaml")["spec"]["rayClusterSpec"] == _load("raycluster.yaml")["spec"]


def test_the_cluster_asks_for_a_token_and_its_head_does_no_work() -> None:
    cluster = _cluster(_load("raycluster.yaml"))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == PINS["ray"]
    head, cpu, gpu = _groups(cluster)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["serviceType"] == "ClusterIP"
    assert (cpu["minReplicas"], gpu["minReplicas"]) == (1, 0)
    job = _load("rayjob.yaml")["spec"]["entrypoint"]
    assert job.startswith(f"python -m cluster.nodes {1 + cpu['minReplicas'] + gpu['minReplicas']} corgi run ")
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_every_pod_finds_the_volume_and_the_secret_and_is_no_root() -> None:
    claim, secret = yaml.safe_load_all((MANIFESTS / "storage.yaml").read_text())
    for group in _groups(_cluster(_load("raycluster.yaml"))):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["envFrom"][0]["secretRef"]["name"] == secret["metadata"]["name"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_cluster_launcher_takes_its_file() -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = _load("aws.yaml")
    validate_config(fillout_defaults(config))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(fillout_defaults(config | {"idle_timeout": 5}))
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert all(types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for name in ("cpu", "gpu"))
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert command.index("RAY_AUTH_MODE=token") < command.index("ray start")


def test_the_head_s_command_has_only_options_of_ray_start() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts + parameter.secondary_opts}
    texts = [(MANIFESTS / name).read_text() for name in ("aws.yaml", "slurm.sh")]
    lines = [line for text in texts for line in re.findall(r"(?:ray start|--temp-dir|--block|--min-)[^\n]*", text)]
    used = {option for line in lines for option in re.findall(r"--[a-z-]+", line.replace("ray_bootstrap", ""))}
    assert used
    assert used <= known


def test_the_slurm_script_passes_shellcheck() -> None:
    checked = subprocess.run(
        [BIN / "shellcheck", "--severity=style", MANIFESTS / "slurm.sh"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_dockerfile_passes_hadolint() -> None:
    command = [str(BIN / "hadolint"), "--failure-threshold", "style", str(MANIFESTS / "Dockerfile")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_image_is_pinned_by_the_constraints_and_runs_as_no_root() -> None:
    text = (MANIFESTS / "Dockerfile").read_text()
    installs = [
        line for line in text.replace("\\\n", " ").splitlines() if " install " in line and "apt-get" not in line
    ]
    assert installs
    assert all("--constraint pins.txt" in line for line in installs)
    assert f"TORCH={PINS['torch']}+cpu" in text
    assert re.findall(r"^USER (\w+)$", text, re.M) == ["1000"]
    (strip,) = re.findall(r"sed -E '([^']+)' constraints.txt > pins.txt", text)
    locked = "a==1.0 ; python_version < '3.12' \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nb==2\n"
    pins = subprocess.run(["sed", "-E", strip], input=locked, capture_output=True, text=True, check=True).stdout
    assert pins == "a==1.0 ; python_version < '3.12'\nb==2\n"
    kept = {line[1:] for line in (MANIFESTS / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M) for name in line.split()}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


STANDINS = {
    # What Slurm and Ray do in the script, on this machine: each writes down how it was called, and with which token.
    "scontrol": 'echo node1; [ "$SLURM_JOB_NUM_NODES" = 1 ] || echo localhost',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN ray $*" >> "$RECORD"; exec sleep 300',
    "corgi": "trap 'echo ended >> \"$RECORD\"; exit 143' TERM; "
    'echo "$RAY_AUTH_TOKEN corgi $* at $RAY_ADDRESS" >> "$RECORD"; '
    '[ "$2" != fails ] || exit 3; [ "$2" != waits ] || { sleep 300 & wait; }',
    "python": 'if [ "$2" = cluster.nodes ]; then echo "waited for $3" >> "$RECORD"\n'
    'until [ "$(grep -c " ray start" "$RECORD")" -ge "$3" ]; do sleep 0.05; done; exit; fi\n'
    f'exec {sys.executable} "$@"',
}


def _start_script(folder: Path, nodes: int, *arguments: str) -> "subprocess.Popen[str]":
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STANDINS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"], "RECORD": str(folder / "record"), "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "4",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", str(MANIFESTS / "slurm.sh"), *arguments], env=environment, text=True, stderr=subprocess.PIPE
    )


def _lines(folder: Path) -> list[str]:
    path = folder / "record"
    return path.read_text().splitlines() if path.exists() else []


def _left(folder: Path) -> list[str]:
    """Return the processes that still run with this test's record in their environment."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RECORD") == str(folder / "record"):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_the_slurm_script_starts_ray_with_one_token_runs_the_experiment_and_ends_everything(tmp_path: Path) -> None:
    with _start_script(tmp_path, 2, "configs/smoke.yaml", "store=/shared") as script:
        assert script.wait(100) == 0, script.stderr.read()
    *lines, run = _lines(tmp_path)  # of which those of Ray are written by processes beside the script
    (head,) = [line for line in lines if " ray start --head" in line]
    (worker,) = [line for line in lines if " ray start --address" in line]
    assert [line for line in lines if line.startswith("waited")] == ["waited for 1", "waited for 2"]
    mode, token, *words = head.split()
    assert (mode, len(token)) == ("token", 64)
    assert words[:3] == ["ray", "start", "--head"]
    assert "--port=23456" in words
    assert "--num-cpus=4" in words
    assert token in worker
    assert token in run
    assert "--address=127.0.0.1:23456" in worker
    assert run.endswith("corgi run configs/smoke.yaml store=/shared at 127.0.0.1:23456")
    assert not any(token in " ".join(line.split()[2:]) for line in (head, worker))
    assert not _left(tmp_path)


def test_the_slurm_script_passes_on_the_exit_code(tmp_path: Path) -> None:
    with _start_script(tmp_path, 1, "fails") as script:
        assert script.wait(100) == 3, script.stderr.read()
    assert not _left(tmp_path)


def test_the_slurm_script_passes_sigterm_on_and_waits_for_the_run(tmp_path: Path) -> None:
    with _start_script(tmp_path, 1, "waits") as script:
        deadline = time.monotonic() + 30
        while not any("corgi run" in line for line in _lines(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 143, script.stderr.read()
    assert _lines(tmp_path)[-1] == "ended"
    assert not [line for line in _left(tmp_path) if "sleep 300" not in line]


def test_the_schemas_are_schemas() -> None:
    for name in ("RayCluster", "RayJob"):
        jsonschema.Draft202012Validator.check_schema(SCHEMAS[name] | {"definitions": SCHEMAS["definitions"]})


def test_the_option_for_a_head_that_may_die_matches_the_schema() -> None:
    text = (MANIFESTS / "raycluster.yaml").read_text()
    assert text.count("# gcsFaultToleranceOptions:") == 1
    document = yaml.safe_load(text.replace("# gcsFaultToleranceOptions:", "gcsFaultToleranceOptions:"))
    assert document["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
    _validate(document)
