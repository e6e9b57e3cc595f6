"""A process that was killed for memory is reported as that, with what to change."""

from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

from cluster.losses import MemoryKills, describe_loss, memory_kills


def test_what_ray_ends_for_memory_is_known_by_its_error() -> None:
    assert "and Ray ended the process: lower resources.num_workers" in describe_loss(OutOfMemoryError("task killed"))
    text = "The worker died: Worker exit type: NODE_OUT_OF_MEMORY"
    assert "ran out of memory" in describe_loss(text)
    assert "memory" not in describe_loss(ActorDiedError())


def test_what_the_system_ends_is_known_by_its_count() -> None:
    reason = describe_loss(WorkerCrashedError(), is_memory=True)
    assert reason.startswith("the system ended a process for memory meanwhile, probably this one: lower resources.")
    assert len(describe_loss("word " * 1000)) == 300


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
