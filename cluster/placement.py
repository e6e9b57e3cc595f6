"""What a training group holds of the cluster, given back where the actor that holds it is lost.

Ray keeps it for as long as the job lives; Ray Train has one more actor for each group that would give it back, and asks
the server of Ray's dashboard whether the group's controller lives, which a Ray inside a process lacks.
"""

import time

import ray
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

_POLL_SECONDS = 0.2


def remove_abandoned_groups(patience: float) -> None:
    """Remove the placement groups of this job whose makers are dead; wait so many seconds until there is one."""
    until = time.monotonic() + patience
    while not (found := _abandoned_groups()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    for group in found:
        remove_placement_group(group)


def _abandoned_groups() -> list[PlacementGroup]:
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    job = ray.get_runtime_context().get_job_id()
    rows = [PlacementGroupTableData.FromString(row) for row in
            state._connect_and_get_accessor().get_placement_group_table()]  # fmt: skip
    return [
        PlacementGroup(PlacementGroupID(row.placement_group_id))
        for row in rows
        if row.creator_actor_dead and row.creator_job_id.hex() == job and row.state != PlacementGroupTableData.REMOVED
    ]
