"""A list that the address policy refuses as a whole is refused before anything starts."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract.errors import InputFault
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from tests.fuzz.sentry import install, on_duty

PRIVATE = [f"http://10.1.2.{number}/{number}.jpg" for number in range(5)] + ["http://localhost:8000/a.jpg"]


def write(folder: Path, kind: str, urls: list[str]) -> Path:
    file = folder / f"list.{kind}"
    match kind:
        case "parquet":
            pq.write_table(pa.table({"url": urls}), file)
        case "json":
            file.write_text(json.dumps([{"url": url} for url in urls]))
        case "jsonl":
            file.write_text("\n".join(json.dumps({"url": url}) for url in urls))
        case "txt":
            file.write_text("\n".join(urls))
        case _:
            file.write_text("url\n" + "\n".join(urls))
    return file


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "json", "jsonl", "txt"])
def test_a_list_of_private_addresses_is_refused_before_anything_starts(tmp_path: Path, kind: str) -> None:
    source = {"kind": "url_list", "path": write(tmp_path, kind, PRIVATE)}
    with pytest.raises(
        InputFault, match=r"the first 6 addresses lead to private hosts \(10\.1\.2\.0, …\).*allowed_net"
    ):
        check(DownloadShardsConfig(source=source))


def test_what_is_allowed_or_expected_is_not_refused(tmp_path: Path) -> None:
    source = {"kind": "url_list", "path": write(tmp_path, "txt", PRIVATE)}
    check(DownloadShardsConfig(source=source, allowed_networks=("10.0.0.0/8",)))
    check(DownloadShardsConfig(source=source, min_yield=0))


def test_one_public_address_is_enough(tmp_path: Path) -> None:
    check(
        DownloadShardsConfig(
            source={"kind": "url_list", "path": write(tmp_path, "txt", [*PRIVATE, "http://8.8.8.8/a"])}
        )
    )
    broken = ["http://[::1/a.jpg", *PRIVATE]  # what is wrong with these is counted by the download
    check(DownloadShardsConfig(source={"kind": "url_list", "path": write(tmp_path, "csv", broken)}))


def test_no_name_server_is_asked_of_a_list(tmp_path: Path) -> None:
    install()
    urls = ["http://intranet.invalid/a.jpg", *PRIVATE]
    with on_duty():
        check(DownloadShardsConfig(source={"kind": "url_list", "path": write(tmp_path, "txt", urls)}))
