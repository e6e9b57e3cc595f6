"""Processes of a run that are killed or stopped."""

import contextlib
import signal
import threading
from dataclasses import dataclass
from random import Random
from typing import Literal

import psutil

from tests.chaos.fault import DATA, TRAINING, InFolder, Injection, Setting


@dataclass(frozen=True)
class Kill(InFolder):
    """A process that does a certain work gets a signal; ``whole``: and with it all that the run started."""

    name: str
    role: str
    times: int = 3
    makes: tuple[str, ...] = DATA
    sign: signal.Signals = signal.SIGKILL
    whole: bool = False
    when: Literal["before", "during"] = "during"

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        run = rng.choice(setting.runs)
        found = run.having(self.role)
        if not found:
            return None
        chosen = rng.choice(found)
        for one in run.tree() if self.whole else [chosen]:
            with contextlib.suppress(psutil.Error):
                one.send_signal(self.sign)
        return Injection(f"{self.sign.name} to {self.role}")


@dataclass(frozen=True)
class Stop(InFolder):
    """A process stands still for a while, or for good (``seconds`` None)."""

    name: str
    role: str
    seconds: float | None
    times: int = 3
    makes: tuple[str, ...] = DATA
    when: Literal["before", "during"] = "during"

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        found = [one for one in rng.choice(setting.runs).having(self.role) if _runs(one)]
        if not found:
            return None
        chosen = rng.choice(found)
        with contextlib.suppress(psutil.Error):
            chosen.send_signal(signal.SIGSTOP)
        if self.seconds is not None:
            timer = threading.Timer(self.seconds, _continue, [chosen])
            timer.daemon = True
            timer.start()
        return Injection(f"SIGSTOP to {self.role} for {'good' if self.seconds is None else f'{self.seconds:g} s'}")


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_STOPPED)
    return False


def _continue(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGCONT)


FAULTS = (
    Kill("kill a shard worker", "shard worker", times=8),
    Kill("kill the child that decodes", "decoder", times=8),
    Kill("kill the driver", "driver", times=3),
    Kill("kill the driver and all below", "driver", times=3, whole=True),
    Kill("interrupt the driver", "driver", times=3, sign=signal.SIGINT),
    Kill("terminate the driver", "driver", times=3, sign=signal.SIGTERM),
    Kill("kill the mailbox", "mailbox", times=3),
    Kill("kill the stage's process", "stage", times=3),
    Kill("kill the raylet", "raylet", times=3),
    Kill("kill the head's GCS", "gcs_server", times=2),
    Kill("kill a training worker", "training worker", times=3, makes=TRAINING),
    Kill("kill the training controller", "training controller", times=2, makes=TRAINING),
    Kill("kill the driver in training", "driver", times=2, makes=TRAINING),
    Stop("stop a shard worker for good", "shard worker", None, times=3),
    Stop("stop a shard worker for 2 s", "shard worker", 2.0, times=10),
    Stop("stop a shard worker for 60 s", "shard worker", 60.0, times=2),
    Stop("stop the driver for 60 s", "driver", 60.0, times=1),
    Stop("stop the driver for 2 s", "driver", 2.0, times=8),
    Stop("stop the raylet for 2 s", "raylet", 2.0, times=8),
    Stop("stop the head's GCS for 2 s", "gcs_server", 2.0, times=8),
    Stop("stop the mailbox for 2 s", "mailbox", 2.0, times=8),
    Stop("stop a training worker for 60 s", "training worker", 60.0, times=1, makes=TRAINING),
)
