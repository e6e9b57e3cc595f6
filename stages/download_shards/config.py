"""Which images to download, and in what form to keep them."""

import errno
import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, field_validator, model_validator

from stages.contract.bounds import LONGEST_REQUEST, Count, CountOrZero, Pixels, RequestSeconds, Seed
from stages.contract.config import Address, ConfigModel, ExternalPath, RuntimeOnly
from stages.contract.digests import address_digest, content_digest, digest_of_files, remote_checksums, tree_digest
from stages.contract.stage import StageConfig
from stages.download_shards.drawings.package_config import DRAWINGS, KEYWORDS, SETS, Package, SetName
from stages.download_shards.list_config import FOLDER_FORMAT, Encoding, ListFormat, format_of
from stages.formats.image_folders import is_metadata, read_names
from stages.storage.filesystems import is_remote
from stages.storage.walking import Found, Kind, is_hidden, walk

_DECODER_BYTES, _DECODER_BYTES_PER_PIXEL = 300_000_000, 16


def _no_is_a_word(value: Any) -> Any:
    """Return "no" for false, which is what YAML 1.1 makes of an unquoted no."""
    return "no" if value is False else value


class SourceConfig(ConfigModel):
    """Base of the sections of all kinds of sources."""

    chooses: ClassVar[tuple[str, ...]] = ("path",)
    """Keys of the identity that say which entries there are; what an entry becomes does not depend on them."""
    why_not_grow: ClassVar[str] = ""
    """Why shards of another source of the kind are not taken over; "": they are."""


class ScenesSource(SourceConfig):
    """Images that the project renders and serves over loopback HTTP while they are downloaded."""

    chooses: ClassVar[tuple[str, ...]] = ("num_images", "num_dead_urls", "num_corrupt")
    why_not_grow: ClassVar[str] = (
        "scenes are rendered in seconds, and the quickstart's results must not depend on what else the store holds"
    )

    kind: Literal["scenes"]
    num_images: Count = Field(description="images that can be downloaded; dead and corrupt entries come on top")
    seed: Seed = 0
    domain: Literal["plain", "night", "both"] = "plain"
    split: Literal["train", "heldout", "clip"] = "train"
    resolution: Pixels = Field(64, description="pixels on a side")
    captioned: bool = Field(True, description="whether the list has captions at all")
    caption_drop: float = Field(
        0.0, ge=0.0, lt=1.0, description="chance that a short caption leaves out each attribute but the shape"
    )
    short_captions: float = Field(1.0, ge=0.0, le=1.0, description="fraction of short captions, where caption_drop > 0")
    num_dead_urls: CountOrZero = Field(0, description="entries of the list that the server answers with 404")
    num_corrupt: CountOrZero = Field(0, description="entries whose file is damaged")


_MIXED_CAPTIONS = {"captions": "texts and lists"}
"""Of sources in which lists of captions beside texts were once stored as their JSON, so that these are read anew."""


class UrlListSource(SourceConfig):
    """A list of image addresses in a file, or in a folder of files of one format."""

    chooses: ClassVar[tuple[str, ...]] = ("path", "captions")

    kind: Literal["url_list"]
    path: Address = Field(description="the file or folder, here or at any address that fsspec knows (s3://, gs://)")
    format: ListFormat | None = Field(None, description="none: the file's suffix")
    url_column: str = Field("url", description="column of the addresses; a txt list has one address per line")
    caption_column: str | None = Field(
        None, description="column of the captions, each a text or a list of texts; none: no captions"
    )
    encoding: Encoding = Field(
        "utf-8", description="of csv, tsv, json, jsonl and txt files that do not begin with a byte order mark"
    )

    @model_validator(mode="after")
    def _text_lists_have_no_captions(self) -> "UrlListSource":
        if self.caption_column is not None and format_of(self.path, self.format) == "txt":
            raise ValueError(
                f"caption_column: found {self.caption_column!r}: a txt list holds addresses only; "
                "leave caption_column out, or give a parquet, csv, tsv, json or jsonl list"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the content of a local list, or the names and checksums that a remote store reports."""
        kept = ("kind", "format", "url_column", "caption_column", "encoding")
        may_mix = self.caption_column is not None and format_of(self.path, self.format) == "jsonl"
        found = {"path": self._content()} | (_MIXED_CAPTIONS if may_mix else {})
        return found | {name: getattr(self, name) for name in kept}

    def _content(self) -> str:
        if is_remote(self.path):
            return address_digest(self.path)
        suffix = f".{format_of(self.path, self.format) or FOLDER_FORMAT}"
        return tree_digest(Path(self.path), lambda found: "/" not in found.name and found.name.lower().endswith(suffix))


class FolderSource(SourceConfig):
    """A folder tree of images, with captions in key.txt or key.json beside them, or in a metadata file."""

    chooses: ClassVar[tuple[str, ...]] = ("path", "captions")

    kind: Literal["folder"]
    path: Address = Field(description="the folder, here or at any address that fsspec knows (s3://, gs://)")
    file_column: str = Field("file_name", description="column of the metadata file with the relative paths")
    caption_column: str = Field("caption", description="column of the metadata file with the captions")
    encoding: Encoding = Field("utf-8", description="of caption and metadata files without a byte order mark")

    def identity(self) -> dict[str, Any]:
        """Return names and contents of what is read: images, files beside them, metadata files; of a remote tree, names
        and checksums.
        """
        names = read_names(self._found())
        formats = [name.lower().rpartition(".")[2] for name in names if is_metadata(name)]
        may_mix = len(formats) > 1 and not {"jsonl", "parquet"}.isdisjoint(formats)
        found = {"path": digest_of_files(self.path, names)} | (_MIXED_CAPTIONS if may_mix else {})
        kept = ("kind", "file_column", "caption_column", "encoding")
        return found | {name: getattr(self, name) for name in kept}

    def _found(self) -> Iterable[Found]:
        """Yield what lies in the folder."""
        if is_remote(self.path):
            names = (name for name, _ in remote_checksums(self.path, "**"))
            return (Found(name, Kind.HIDDEN if any(map(is_hidden, name.split("/"))) else Kind.FILE) for name in names)
        if not Path(self.path).is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", self.path)
        return walk(Path(self.path))


class WebdatasetSource(SourceConfig):
    """Existing webdataset shards, each of which becomes one shard here."""

    kind: Literal["webdataset"]
    path: Address = Field(
        description="a folder of .tar files or one of them, here or at any address that fsspec knows (s3://, gs://)"
    )

    def identity(self) -> dict[str, Any]:
        """Return the content of local shards, or the names and checksums that a remote store reports."""
        content: Any
        if not is_remote(self.path):
            is_shard = re.compile(r"[^/]+\.tar", re.IGNORECASE).fullmatch
            content = tree_digest(Path(self.path), lambda found: is_shard(found.name) is not None)
        else:
            content = remote_checksums(self.path, "*.[tT][aA][rR]")
        return {"kind": self.kind, "path": content, "images": "each counted"}  # of a sample, no longer as one


class HuggingfaceSource(SourceConfig):
    """A Hugging Face dataset folder on disk, as save_to_disk writes it or of parquet files."""

    chooses: ClassVar[tuple[str, ...]] = ("path", "readme", "patterns", "config_name", "split")

    kind: Literal["huggingface"]
    path: ExternalPath
    config_name: str | None = Field(None, description="which config, such as a language; none: the only one")
    split: str | None = Field(None, description="which split, such as train; none: the only one")
    image_column: str = Field("image", description="column of the images, each {bytes, path}, bytes or path")
    caption_column: str | None = Field(
        None, description="column of the captions, each a text or a list of texts; none: no captions"
    )
    allow_missing_files: bool = Field(False, description="where numbered or listed files are missing, read the others")

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; README.md may say which files are which config."""
        readme = self.path / "README.md"
        names = ("kind", "config_name", "split", "image_column", "caption_column")
        kept = {name: getattr(self, name) for name in names}
        kept |= {"readme": content_digest(readme), "patterns": "globs"} if readme.is_file() else {}
        kept |= {"rows": "named by content"}  # no longer by their numbers
        return kept | {"path": tree_digest(self.path, _may_be_of_dataset)}


class DrawingsSource(SourceConfig):
    """Drawings of the same concepts by several artists, from packages of the npm registry, rendered on white."""

    chooses: ClassVar[tuple[str, ...]] = ("content", "sets", "concepts", "held_out", "seed", "only_common")

    kind: Literal["drawings"]
    sets: tuple[SetName, ...] = Field(SETS, min_length=1, description="the artists")
    captions: Literal["names", "names_and_keywords", "none"] = Field(
        "names", description="names of the drawings; with the names and keywords of CLDR; or none"
    )
    concepts: Literal["all", "seen", "held_out"] = Field(
        "all", description="all that an artist drew; without, or only, those held out by the hash of the concept"
    )
    held_out: float = Field(0.1, gt=0.0, lt=1.0, description="fraction of the concepts that are held out")
    seed: int = Field(0, description="which concepts are held out")
    only_common: bool = Field(False, description="only concepts that all four artists drew")
    resolution: int = Field(64, ge=8, le=1024, description="pixels on a side")
    path: ExternalPath | None = Field(
        None, description="folder in which `npm install` has put the packages; none: fetched from the registry"
    )

    @field_validator("sets")
    @classmethod
    def _each_set_once(cls, sets: tuple[SetName, ...]) -> tuple[SetName, ...]:
        if len(set(sets)) < len(sets):
            raise ValueError(f"found {list(sets)}: expected one or more sets, each once")
        return sets

    @property
    def set_packages(self) -> tuple[Package, ...]:
        """The packages of the artists."""
        return tuple(DRAWINGS[name] for name in self.sets)

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages that are shown: those of the artists, then that of the further captions."""
        return (*self.set_packages, *([KEYWORDS] if self.captions == "names_and_keywords" else []))

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on: the options, and the content of the packages."""
        kept = ("kind", "sets", "captions", "concepts", "only_common", "resolution")
        split = {} if self.concepts == "all" else {"held_out": self.held_out, "seed": self.seed}
        read = [*self.packages, *(DRAWINGS.values() if self.only_common else ())]
        content: Any = sorted({package.integrity for package in read})
        if self.path is not None:
            content = tree_digest(self.path)
        return {"content": content} | split | {name: getattr(self, name) for name in kept}


def _may_be_of_dataset(found: Found) -> bool:
    """Tell whether a file of a Hugging Face folder may be read: rows may name images of any suffix in it."""
    return found.kind is not Kind.HIDDEN and not found.name.lower().endswith((".md", ".txt"))


Source = DrawingsSource | ScenesSource | UrlListSource | FolderSource | WebdatasetSource | HuggingfaceSource


class Img2datasetOptions(ConfigModel):
    """What img2dataset's own shard downloader gets (engine: img2dataset), in its words."""

    thread_count: Count = Field(32, description="addresses at a time in each worker")
    timeout: RequestSeconds = Field(10.0, description="seconds to wait for each step of a connection")
    retries: CountOrZero = Field(0, description="further attempts at an address that fails for whatever reason")
    user_agent_token: str | None = Field(None, description="added to the name under which servers know it")
    disallowed_header_directives: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex"), description="values of X-Robots-Tag that leave an image out"
    )


class DownloadShardsConfig(StageConfig):
    """Turn a source of images into webdataset shards in img2dataset's layout."""

    stage: ClassVar[str] = "download_shards"
    code_version: ClassVar[int] = 4
    grows: ClassVar[bool] = True

    source: Annotated[Source, Field(discriminator="kind")]
    engine: Literal["guarded", "img2dataset"] = Field(
        "guarded",
        description="what fetches addresses: ours, with an address policy and limits, or img2dataset's own shard "
        "downloader without them, for a url_list and networks that you trust",
    )
    img2dataset: Img2datasetOptions = Field(Img2datasetOptions(), description="engine: img2dataset")
    rows_per_shard: Count = Field(1000, description="entries of the list per shard; a shard is built in memory")
    image_size: Count = Field(256, description="pixels; which side this is depends on resize_mode")
    resize_mode: Annotated[
        Literal["no", "keep_ratio", "center_crop", "border", "keep_ratio_largest"], BeforeValidator(_no_is_a_word)
    ] = "center_crop"
    resize_only_if_bigger: bool = Field(True, description="keep the size of images that are no larger than image_size")
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    encode_quality: CountOrZero | None = Field(
        None, description="jpg and webp: 0 to 100 (none: 95); png: compression 0 to 9 (none: 6), always lossless"
    )
    skip_reencode: bool = Field(True, description="keep the bytes of an image that already has format and size")
    min_image_size: CountOrZero = Field(0, description="pixels of the shorter side below which an image is refused")
    max_pixels: Count = Field(
        50_000_000, le=170_000_000, description="pixels of an image above which it is refused before it is decoded"
    )
    isolate_decoding: Annotated[bool, RuntimeOnly()] = Field(
        True, description="decode images in a child process with the limits below; without it, there are none but sizes"
    )
    decoder_seconds: RequestSeconds = Field(20.0, description="seconds of a processor for one image")
    decoder_memory: Count | None = Field(
        None, description="bytes of memory for one image; none: 300 MB, and 16 bytes a pixel of max_pixels"
    )
    max_bytes: Count = Field(50_000_000, description="size of a file above which it is refused")
    timeout: RequestSeconds = Field(10.0, description="seconds to wait for a connection and each piece of a response")
    max_seconds: RequestSeconds = Field(60.0, description="seconds for one address in all; slower ones are cut off")
    max_redirects: CountOrZero = Field(5, description="redirects to follow for one address")
    retries: CountOrZero = Field(1, description="further attempts at an address that fails for what may pass")
    retry_wait: Annotated[NonNegativeFloat, RuntimeOnly()] = Field(
        0.5,
        le=LONGEST_REQUEST,
        description="seconds before the first further attempts; doubled before each later round",
    )
    respect_opt_out: bool = Field(True, description="leave out images whose server says X-Robots-Tag: noai or noindex")
    allowed_networks: tuple[str, ...] = Field(
        (), description="networks such as 10.1.0.0/16 to permit although they are not public"
    )
    drop_duplicate_urls: bool = Field(
        False, description="fetch each address only once; repetitions are counted in any case"
    )
    drop_duplicate_images: bool = Field(
        False, description="keep one of several images with the same bytes; repetitions are counted in any case"
    )
    grow: Annotated[bool, RuntimeOnly()] = Field(
        True, description="take the shards of an earlier artifact of the store whose entries are the same"
    )
    grown_from: str | None = Field(
        None, description="fingerprint of that artifact; null: the one that has most entries in common, if any"
    )
    per_host: Annotated[Count, RuntimeOnly()] = Field(
        16, description="connections to one host at a time, divided among the workers, at least one for each"
    )
    threads: Annotated[Count, RuntimeOnly()] = Field(32, description="downloads at a time in each worker")
    min_yield: Annotated[float, RuntimeOnly()] = Field(
        0.5, ge=0.0, le=1.0, description="fraction of the entries that must become images, or the stage fails"
    )

    probe_shards: Annotated[CountOrZero, RuntimeOnly()] = Field(
        4, description="shards after which too low a yield stops the stage at once; 0: only at the end"
    )

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)  # its message says what is wrong
        return networks

    @field_validator("encode_quality")
    @classmethod
    def _percent(cls, quality: int | None) -> int | None:
        if quality is not None and quality > 100:
            raise ValueError(f"found {quality}: at most 100 (jpg, webp) or 9 (png)")
        return quality

    @model_validator(mode="after")
    def _png_compression(self) -> "DownloadShardsConfig":
        if self.encode_format == "png" and (self.encode_quality or 0) > 9:
            raise ValueError(f"encode_quality: found {self.encode_quality}: png takes a compression from 0 to 9")
        return self

    @model_validator(mode="after")
    def _img2dataset_fetches_lists(self) -> "DownloadShardsConfig":
        if self.engine == "img2dataset" and self.source.kind != "url_list":
            raise ValueError(
                f"engine: found img2dataset with a source of kind {self.source.kind}: it fetches a url_list alone; "
                "leave engine out"
            )
        if self.engine == "guarded" and self.img2dataset != Img2datasetOptions():
            raise ValueError(
                "img2dataset: found options, but engine is guarded: set engine: img2dataset, or remove them"
            )
        return self

    @property
    def quality(self) -> int:
        """The encoder's quality (jpg, webp) or compression (png)."""
        return self.encode_quality if self.encode_quality is not None else 6 if self.encode_format == "png" else 95

    @property
    def memory_of_decoder(self) -> int:
        """Bytes of memory that decoding and resizing one image may take."""
        return self.decoder_memory or _DECODER_BYTES + _DECODER_BYTES_PER_PIXEL * self.max_pixels

    @property
    def inputs(self) -> tuple[str, ...]:
        """The stage starts the graph."""
        return ()

    @property
    def why_not_grow(self) -> str:
        """Why no shards are taken from earlier artifacts; "": they are."""
        return self.source.why_not_grow if self.grow else "download_shards.grow is false"

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; the artifact that it begins with counts where there is one."""
        identity = super().identity()
        if self.grown_from is None:
            del identity["grown_from"]
        return identity

    def recipe_identity(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out where the entries come from."""
        source = {name: value for name, value in identity["source"].items() if name not in self.source.chooses}
        return {**identity, "source": source}

    @property
    def units_are_final(self) -> bool:
        """Whether a finished shard never changes; it does where repeated images are dropped at the end."""
        return not self.drop_duplicate_images
