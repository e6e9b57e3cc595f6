"""A process that was killed for memory is reported as that, with what to change."""

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

from cluster.losses import MemoryKills, StartsInVain, describe_loss, memory_kills


def test_what_ray_ends_for_memory_is_known_by_its_error() -> None:
    assert "and Ray ended the process: lower resources.num_workers" in describe_loss(OutOfMemoryError("task killed"))
    text = "The worker died: Worker exit type: NODE_OUT_OF_MEMORY"
    assert "ran out of memory" in describe_loss(text)
    assert "memory" not in describe_loss(ActorDiedError())


def test_what_the_system_ends_is_known_by_its_count() -> None:
    reason = describe_loss(WorkerCrashedError(), is_memory=True)
    assert reason.startswith("the system ended a process for memory meanwhile, probably this one: lower resources.")
    assert len(describe_loss("word " * 1000)) == 300


RANK = (
    "Training failed due to worker errors: [Rank 3 Error Snippet]: A worker health check failed. Worker info: Worker( "
    "actor=Actor(RayTrainWorker, 2765042c), metadata=ActorMetadata( hostname='vm', node_id='f4837f', "
    "node_ip='10.0.0.7', pid=3757, ), distributed_context=DistributedContext(world_rank=3, world_size=4, local_rank=0, "
    "local_world_size=1, node_rank=3), log_file_path=None, ) "
)
EXIT = (
    "The actor died unexpectedly before finishing this task. class_name: RayTrainWorker actor_id: 2765 pid: 3757 "
    "namespace: 12c3b0b4-dd0c-4f53-9058-9eb512c39b55 ip: 10.0.0.7 The actor is dead because its worker process has "
    "died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code "
    "2. End of file. Some common causes include: (1) the process was killed by the OOM killer due to high memory usage"
)
KILLED = "it was killed, or has crashed (Worker unexpectedly exits with a connection error code 2. End of file)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RANK + EXIT, f"rank 3, process 3757 on 10.0.0.7: {KILLED}"),
        (EXIT, KILLED),
        (RANK + "A call timed out.", "rank 3, process 3757 on 10.0.0.7: A call timed out."),
        ("no words of Ray", "no words of Ray"),
    ],
)
def test_the_process_and_its_end_come_before_all_else_that_ray_knows(text: str, reason: str) -> None:
    assert describe_loss(text) == reason


def test_kills_are_counted_by_node_and_each_once() -> None:
    kills = MemoryKills("here")
    kills.note("there", 7)
    assert not kills.has_killed("there")
    kills.note("there", 8)
    assert kills.has_killed("there")
    assert not kills.has_killed("there")
    assert not kills.has_killed("a node that gave no sign")
    kills.note("here", memory_kills() - 1)  # asked again at once, as this machine can be
    assert kills.has_killed("here")


@pytest.mark.parametrize(
    ("reached", "then", "counts"),
    [
        (0, [0, 500, 500, 500, 1000], [1, 0, 1, 2, 0]),
        (3000, [500, 1000, 1500, 1500], [1, 1, 1, 2]),  # all checkpoints were damaged: it gets further from there
        (3000, [0, 0, 0], [1, 2, 3]),
        (1000, [500, 1000, 500, 1000, 500], [1, 1, 2, 2, 3]),  # one is damaged again and again: that comes to an end
    ],
)
def test_a_start_is_in_vain_where_the_next_one_begins_no_further(
    reached: int, then: list[int], counts: list[int]
) -> None:
    in_vain = StartsInVain(reached)
    assert [in_vain.note(now) for now in then] == counts
