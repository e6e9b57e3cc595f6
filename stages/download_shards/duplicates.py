"""Entries that occur more than once: by address before the download, by content after it.

Of several, the first in the order of the list counts as the original, whatever the order in which shards are done.
"""

import numpy as np
import pyarrow as pa

IS_DUPLICATE = "__is_duplicate__"
DUPLICATE_URL = "duplicate address"


def count_repeated(urls: pa.ChunkedArray) -> int:
    """Count the addresses that stood in the list before."""
    return int(_repeated(urls).sum())


def mark_repeated(rows: pa.Table) -> pa.Table:
    """Add a column that tells which rows are not to be fetched because their address stood in the list before."""
    return rows.append_column(IS_DUPLICATE, pa.array(_repeated(rows["url"])))


def _repeated(urls: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Number the distinct addresses by first appearance: one whose number is no higher than before is a repetition."""
    encoded = pa.chunked_array([urls.combine_chunks().dictionary_encode()]).combine_chunks()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    highest = np.maximum.accumulate(np.concatenate([[-1], numbers[:-1]])) if len(numbers) else numbers
    repeated: np.ndarray[tuple[int], np.dtype[np.bool_]] = (numbers >= 0) & (numbers <= highest)
    return repeated
