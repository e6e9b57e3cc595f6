"""Whether enough of the entries became images: of all shards, and of those that are new.

Shards that are taken over from an earlier artifact had their images before. They would hide that nothing comes today,
as where no name can be looked up, and the shards without images would be final.
"""

from collections.abc import Collection, Mapping

from stages.contract.documents import Totals
from stages.contract.errors import YieldTooLow
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.growth import GrowthRecord
from stages.download_shards.remedies import remedy_of
from stages.download_shards.worker import DROPPED
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Output

_FEWEST = 8  # new entries that say something by themselves: a broken image or two is no source that is away


class Probe:
    """Compares the yield of the first new shards with the configured minimum, once, so that a bad run ends early.

    Calls: the runner's check, after each shard; raises YieldTooLow.
    """

    def __init__(self, config: DownloadShardsConfig, new: Collection[str], records: Mapping[str, ShardRecord]) -> None:
        """Begin with the records of shards that are done; ``new`` are the names of those that are not taken over."""
        self._config, self._new = config, frozenset(new)
        self._found = {name: one for name, one in records.items() if name in self._new and _wanted(Totals.of([one]))}
        self._is_over = config.probe_shards == 0

    def __call__(self, name: str, record: ShardRecord) -> None:
        """Take a shard in; one that holds only dropped repetitions says nothing."""
        if self._is_over or name not in self._new or not _wanted(Totals.of([record])):
            return
        self._found[name] = record
        if len(self._found) >= self._config.probe_shards:
            self._is_over = True
            _check(self._config, self._found, "entries")


def check_yield(config: DownloadShardsConfig, records: Mapping[str, ShardRecord], output: Output) -> None:
    """Compare the yield of all shards, and that of the new ones, with the configured minimum.

    Dropped duplicates are no loss.

    Raises:
        YieldTooLow: fewer entries became images.
    """
    _check(config, records, "entries")
    if output.exists(GrowthRecord.file):
        num_taken = len(records) - GrowthRecord.of(output).new_shards
        new = {name: records[name] for name in sorted(records)[max(num_taken, 0) :]}  # the last ones
        if _wanted(Totals.of(new.values())) >= _FEWEST:
            _check(config, new, "new entries")


def yield_of(totals: Totals) -> float:
    """Return the fraction of the entries that became images; dropped duplicates do not count."""
    wanted = _wanted(totals)
    return totals.images / wanted if wanted else 0.0


def _check(config: DownloadShardsConfig, records: Mapping[str, ShardRecord], entries: str) -> None:
    totals = Totals.of(records.values())
    if totals.counts.get("rows") and not _wanted(totals):  # all of them are repetitions
        return
    rate = yield_of(totals)
    if rate < config.min_yield:
        ordered = sorted(totals.causes.items(), key=lambda pair: -pair[1])
        causes = ", ".join(f"{cause} {count}" for cause, count in ordered)
        raise YieldTooLow(
            f"download_shards: {totals.images} of {totals.counts.get('rows', 0)} {entries} became images ({rate:.1%}), "
            f"below download_shards.min_yield = {config.min_yield:.1%}: failures by cause: {causes}: "
            f"{remedy_of(totals.causes)} (shards that yielded too little are downloaded again), or lower min_yield"
        )


def _wanted(totals: Totals) -> int:
    """Return how many entries were to become images."""
    return totals.counts.get("rows", 0) - sum(totals.causes.get(cause, 0) for cause in DROPPED)
