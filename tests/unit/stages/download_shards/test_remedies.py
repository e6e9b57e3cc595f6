"""What a stage that yields too little says is to be done."""

import pytest

from stages.contract.errors import FailureCause
from stages.download_shards.remedies import remedy_of


@pytest.mark.parametrize(
    ("causes", "words"),
    [
        ({"private_address": 9, "timeout": 1}, "download_shards.allowed_networks"),
        ({"private_address": 1, "file_too_large": 4}, "download_shards.max_bytes"),
        ({"http_404": 9, "private_address": 1}, "correct the list or the network"),
        ({}, "correct the list or the network"),
    ],
)
def test_the_most_frequent_cause_has_its_remedy(causes: dict[str, int], words: str) -> None:
    assert words in remedy_of(causes)
    assert remedy_of(causes).endswith(", and run again")


def test_keys_that_remedies_name_exist() -> None:
    from stages.download_shards.config import DownloadShardsConfig

    for cause in FailureCause:
        words = remedy_of({cause.value: 1}).replace(",", " ").split()
        for key in (word.partition(".")[2] for word in words if word.startswith("download_shards.")):
            assert key in DownloadShardsConfig.model_fields
