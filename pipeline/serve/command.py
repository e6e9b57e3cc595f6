"""The options of ``corgi serve``; heavy imports are inside, so that ``--help`` answers at once."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.options import StoreOption
from pipeline.serve.limits import (
    MOST_BATCH,
    MOST_IMAGES,
    MOST_PROMPT,
    MOST_WAITING,
    SHORTEST_TOKEN,
    TOKEN_VARIABLE,
    Limits,
)
from pipeline.terminal import echo
from stages.contract.parsing import shown

if TYPE_CHECKING:
    from cluster.serve import ServeOptions
    from pipeline.serve.app import AppMaker
    from pipeline.serve.model import ModelSource

_POLL_SECONDS = 1.0


def serve(  # noqa: PLR0913  each option is one of the command line
    run: Annotated[str, typer.Argument(metavar="RUN|DIR", help="a run's id or its beginning, or an exported folder")],
    *,
    store: StoreOption = "workspace",
    host: Annotated[
        str, typer.Option("--host", help=f"address to bind to; any but loopback needs {TOKEN_VARIABLE}")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to bind to")] = 8000,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=MOST_BATCH, help="images that are computed at once")
    ] = 8,
    queue: Annotated[
        int, typer.Option("--queue", min=1, max=MOST_WAITING, help="images that may wait; more get 429")
    ] = 256,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=256, help="processes that hold the model")] = 1,
    longest_prompt: Annotated[
        int, typer.Option("--longest-prompt", min=1, max=MOST_PROMPT, help="characters")
    ] = Limits.prompt,
    most_images: Annotated[
        int, typer.Option("--most-images", min=1, max=MOST_IMAGES, help="of one request")
    ] = Limits.images,
) -> None:
    """Serve a finished model over HTTP, with a page to type prompts in; until Ctrl-C.

    On this machine only, unless --host says otherwise. /openapi.json describes how programs ask.
    """
    from pipeline.listening import loopback_names, require_free

    token_digest = _token_digest(host)
    name, sizes = _require_model(run, store)
    require_free(host, port, "serve")

    from cluster.serve import ServeOptions
    from pipeline.serve.app import AppMaker
    from pipeline.serve.model import ModelSource

    options = ServeOptions(host, port, batch_size, queue, replicas)
    hosts = () if token_digest else loopback_names(host)
    limits = Limits(longest_prompt, possible_images(most_images, options))
    maker = AppMaker(name, limits, sizes, hosts, token_digest)
    _serve(maker, ModelSource(store, run, batch_size), options)


def possible_images(asked: int, options: "ServeOptions") -> int:
    """Return how many images a request may ask for; of more than the server holds at a time, every one is refused."""
    if asked > options.most:
        echo(
            f"serve: a request may ask for {options.most} images, not for {asked} (--most-images): "
            f"{options.max_waiting} may wait (--queue) while {options.most - options.max_waiting} are computed; raise "
            "--queue for more",
            err=True,
        )
    return min(asked, options.most)


def _token_digest(host: str) -> bytes | None:
    """Return that of the environment's token, which is taken out of it: no process of ours inherits it."""
    from pipeline.errors import UsageError
    from pipeline.listening import is_loopback
    from pipeline.serve.access import digest_of

    token = os.environ.pop(TOKEN_VARIABLE, None)
    if token is None:
        if is_loopback(host):
            return None
        raise UsageError(
            f"--host: found {shown(host)}, which other machines reach; set {TOKEN_VARIABLE} to a secret of at least "
            f"{SHORTEST_TOKEN} characters, which clients send, or leave --host out"
        )
    if len(token) < SHORTEST_TOKEN or not all("!" <= one <= "~" for one in token):
        raise UsageError(
            f"{TOKEN_VARIABLE}: is no token; give at least {SHORTEST_TOKEN} characters of ASCII without spaces, such "
            "as those of `openssl rand -hex 24`"
        )
    return digest_of(token.encode())


def _require_model(source: str, store: str) -> tuple[str, tuple[str, ...]]:
    """Return the run whose model it is, and its images' sizes; what is wrong is reported before Ray is started."""
    from pipeline.export.names import is_bundle
    from pipeline.store import Store
    from stages.inference.loading import size_names
    from stages.storage.artifact import Artifact

    if is_bundle(source):
        from pipeline.export.bundle import read_bundle

        bundle = read_bundle(Path(source))
        decoder = Artifact(source, "bundle", bundle.run)
        return bundle.run, () if bundle.upsamplers else size_names(decoder)
    found = Store(store)
    found.check_format()
    record = found.find_run(source)

    from pipeline.generation.models import generate_section

    config, inputs = generate_section(found, record)
    return record.run, () if config.upsamplers else size_names(inputs["train_decoder"])


def _serve(maker: "AppMaker", model: "ModelSource", options: "ServeOptions") -> None:
    """Serve until a signal ends it; what fails is printed."""
    from cluster.serve import serving
    from pipeline.listening import address, reached_at
    from stages.contract.secrets import redact

    echo(f"serve: loading the model of run {maker.run} (Ctrl-C ends it)", err=True)
    try:
        with serving(maker, model, options) as faults:
            echo(f"serve: ready at http://{address(reached_at(options.host), options.port)}/", err=True)
            while True:
                time.sleep(_POLL_SECONDS)
                for fault in faults():
                    echo(f"serve: {redact(fault)}", err=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the server has ended, and its Ray with it") from None
