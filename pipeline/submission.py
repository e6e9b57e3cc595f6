"""Submit an experiment as a job: what goes along, what does not, and what the job needs on the cluster instead."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from cluster.authentication import check_authentication
from cluster.jobs import submit_job
from pipeline.config.loading import files_of_config, load_config
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.options import STORE_VARIABLE
from pipeline.packing import pack
from stages.contract.secrets import is_secret_name, redact, secrets_in
from stages.storage.filesystems import is_remote, root_address

_USED_BY_RUNS = ("AWS_", "FSSPEC_", "MLFLOW_TRACKING_", "GOOGLE_APPLICATION_", "AZURE_", "HF_")


def submit_experiment(
    config: Path,
    overrides: Sequence[str],
    address: str,
    echo: Callable[[str], None],
    allow_unauthenticated: bool = False,
) -> str:
    """Pack the current folder, submit the run of a config in it, and return the job's id."""
    loaded = load_config(config, overrides)  # a wrong config is reported here, not in a log on the cluster
    if "store" not in loaded.model_fields_set and STORE_VARIABLE in os.environ:
        overrides = [*overrides, f"store={loaded.store}"]  # the job has another environment
    _refuse_secrets(config, overrides)
    overrides = [
        *overrides,
        *permission_for(address, allow_unauthenticated or loaded.cluster.allow_unauthenticated, echo),
    ]
    folder = Path.cwd()
    needed = [_inside(folder, file) for file in files_of_config(config)]
    store = None if is_remote(loaded.store) else Path(root_address(loaded.store))
    packed = pack(folder, needed, store)
    echo(packed.describe())
    for name, keys in packed.secrets():
        echo(
            f"warning: {name} goes along and holds secrets ({', '.join(keys)}), which all users of the cluster can "
            "read: set them as environment variables on its nodes instead"
        )
    if missing := _variables(loaded):
        echo(f"the job needs on the cluster's nodes, and does not get from here: {', '.join(missing)}")
    command = ["python", "-m", "pipeline", "run", needed[0].relative_to(folder).as_posix(), *overrides]
    with tempfile.TemporaryDirectory(prefix="corgi-submit-") as temporary:
        package = Path(temporary) / "package.zip"
        packed.write(package)
        return submit_job(address, command, package, loaded.cluster.grace_seconds)


def permission_for(address: str, allowed: bool, echo: Callable[[str], None]) -> list[str]:
    """Return what the job's run is given to use the cluster too, where it asks for no token and may be used so."""
    if not check_authentication(address, allowed=allowed, where="--address", option="--allow-unauthenticated"):
        return []
    echo(
        "warning: the cluster asks for no token, so that anyone who reaches one of its ports can run commands there: "
        "start it again after `ray get-auth-token --generate` and with RAY_AUTH_MODE=token (docs/cluster.md)"
    )
    return ["cluster.allow_unauthenticated=true"]


def _refuse_secrets(config: Path, overrides: Sequence[str]) -> None:
    """The command of a job is shown on the cluster's dashboard and kept in its logs."""
    for word in overrides:
        key, _, value = word.partition("=")
        tree: object = yaml.safe_load(value)
        for part in reversed(key.split(".")):
            tree = {part: tree}
        if redact(word) != word or any(secrets_in(tree)) or is_secret_name(key):
            raise UsageError(
                f"{key}: holds a secret, and overrides are part of the job's command, which the cluster shows to all "
                f"its users: set the variables of its nodes' environment, or the key in {config}, which goes along"
            )


def _inside(folder: Path, file: Path) -> Path:
    path = file.resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UsageError(
            f"{file}: lies outside the current folder, and only that goes to the cluster; go to a folder above it"
        )
    return path


def _variables(config: RunConfig) -> list[str]:
    """Return the names of this process's variables that the run uses here."""
    is_used = is_remote(config.store) or config.storage.options or config.tracking.uri
    return sorted(name for name in os.environ if name.startswith(_USED_BY_RUNS)) if is_used else []
