"""What goes to a cluster with a job: the files that it may need, and no secret, data, cache or foreign file."""

import os
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.packing import LARGEST_FILE, Reason, pack

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
STAYS = {
    ".env": Reason.SECRET, "deploy/prod.env": Reason.SECRET, "server.pem": Reason.SECRET, "id_rsa_work": Reason.SECRET,
    "credentials.json": Reason.SECRET, "Secrets.yaml": Reason.SECRET, ".aws": Reason.SECRET, "plain.txt": Reason.SECRET,
    ".git": Reason.CACHE, "env": Reason.CACHE, "a/__pycache__": Reason.CACHE, "results": Reason.STORE,
    "a/notes.local": Reason.IGNORED, "logs": Reason.IGNORED, "data.tar": Reason.DATA, "large.csv": Reason.LARGE,
    "outside.txt": Reason.LINK, "outside": Reason.LINK, "to_key.txt": Reason.LINK, "pipe": Reason.SPECIAL,
}  # fmt: skip
GOES = {
    ".gitignore", "a/.gitignore", "configs/x.yaml", "pipeline/secrets.py", "pipeline/credentials.py", "a/keep.log",
    "run.sh", "inside.txt", "ünïcode.txt",
}  # fmt: skip


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    write(elsewhere / "password.txt", "canary")
    for name in GOES - {".gitignore", "a/.gitignore", "inside.txt"}:
        write(root / name)
    write(root / ".gitignore", "*.local\n/logs/\n*.log\n")
    write(root / "a/.gitignore", "!keep.log\n")
    for name in (".env", "deploy/prod.env", "server.pem", "id_rsa_work", "credentials.json", "Secrets.yaml",
                 ".aws/config", ".git/HEAD", "env/pyvenv.cfg", "env/bin/x.py", "a/__pycache__/x.py", "a/notes.local",
                 "logs/today.txt", "data.tar", "results/store.json", "results/artifacts/x/y.txt"):  # fmt: skip
        write(root / name)
    write(root / "plain.txt", KEY)
    (root / "large.csv").write_bytes(bytes(LARGEST_FILE + 1))
    (root / "run.sh").chmod(0o755)
    (root / "inside.txt").symlink_to("configs/x.yaml")
    (root / "outside.txt").symlink_to(elsewhere / "password.txt")
    (root / "outside").symlink_to(elsewhere)
    (root / "to_key.txt").symlink_to("server.pem")
    os.mkfifo(root / "pipe")
    return root


def test_what_goes_and_what_stays_with_its_reason(folder: Path) -> None:
    packed = pack(folder)
    assert set(packed.files) == GOES
    assert packed.left_out == STAYS
    described = packed.describe()
    assert described.startswith("package: 9 files, 0.1 KiB (largest: ")
    assert (
        "left out, may be a secret: .aws, .env, Secrets.yaml, credentials.json, deploy/prod.env and 3 more" in described
    )
    assert "left out, a link that leads elsewhere: outside, outside.txt, to_key.txt" in described
    assert "left out, larger than 10 MiB: large.csv" in described


def test_the_package_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    pack(folder).write(tmp_path / "one.zip")
    os.utime(folder / "run.sh", (0, 0))
    pack(folder).write(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as package:
        assert set(package.namelist()) == GOES
        assert package.read("inside.txt") == b"text"
        assert package.getinfo("run.sh").external_attr >> 16 & 0o111
        assert b"canary" not in b"".join(map(package.read, package.namelist()))


def test_what_is_needed_goes_even_where_it_is_ignored_and_the_store_stays(folder: Path) -> None:
    needed, store = write(folder / "a/own.local"), folder / "configs"
    packed = pack(folder, [needed], store)
    assert "a/own.local" in packed.files
    assert packed.left_out["configs"] is Reason.STORE


def test_configs_that_hold_secrets_are_named_with_their_keys(folder: Path) -> None:
    write(
        folder / "configs/a.yaml",
        "storage: {options: {s3: {secret: canary, anon: false}}}\ntracking: {uri: 'http://u:p@h'}",
    )
    write(folder / "configs/broken.yaml", "a: [")
    packed = pack(folder)
    assert list(packed.secrets()) == [("configs/a.yaml", ["storage.options.s3.secret", "tracking.uri"])]


def test_a_limit_is_reported_before_the_server_does(folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        (folder / f"a/{number}.csv").write_bytes(os.urandom(1 << 20))
    words = r"is 3\.\d MiB compressed \(most of it: a 3\.0 MiB, .*at most 2\.0 MiB: name in \.gitignore what"
    with pytest.raises(UsageError, match=words):
        pack(folder).write(tmp_path / "p.zip", largest=2 << 20)


def test_names_that_are_no_text_stay(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.txt"))).write_text("x")
    (folder / "line\nbreak.txt").write_text("x")
    below = Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff"))
    below.mkdir()
    (below / "a.txt").write_text("x")
    packed = pack(folder)
    assert set(packed.files) == GOES
    assert "left out, no readable file: 'bad\\udcff', 'bad\\udcff.txt', 'line\\nbreak.txt', pipe" in packed.describe()
