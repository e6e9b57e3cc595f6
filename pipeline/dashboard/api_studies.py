"""What the pages of human evaluation ask for: those of who holds a study, and those of a rater with a link."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from pipeline.dashboard.api_parts import FILES, handle_errors, page_router, png
from pipeline.dashboard.generated import GeneratedImages, rows_of
from pipeline.dashboard.reader import Reader
from pipeline.dashboard.studies import NoStudy, Rater, Studies, Study, Vote, pairs_of
from pipeline.dashboard.win_rates import win_rates
from pipeline.errors import UsageError
from stages.contract.parsing import shown

Shown = Literal["left", "right", "tie"]
MOST_RUNS: Final = 6


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewStudy(_Asked):
    """Which runs to compare, on which of their prompts: a text with one in each line; empty: all of them."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    runs: Annotated[list[str], Field(min_length=2, max_length=MOST_RUNS)]
    set: Annotated[str, Field(max_length=100)] = "prior"
    prompts: Annotated[str, Field(max_length=1_000_000)] = ""


class NewRater(_Asked):
    """Who is invited."""

    name: Annotated[str, Field(min_length=1, max_length=100)]


class NewVote(_Asked):
    """What a rater says of the two images as they are shown."""

    alignment: Shown
    fidelity: Shown


def studies_router(reader: Reader, studies: Studies) -> APIRouter:
    """Return the paths of who holds the studies."""
    router = APIRouter(prefix="/studies")

    @router.get("")
    def listed() -> list[dict[str, Any]]:
        return [_row(study, studies) for study in studies.all()]

    @router.post("")
    def create(new: NewStudy) -> dict[str, Any]:
        rows = [(run, rows_of(reader, run, new.set)) for run in new.runs]
        prompts = [line.strip() for line in new.prompts.splitlines() if line.strip()]
        pairs = pairs_of(rows, prompts)
        if not pairs:
            raise UsageError(
                f"study: the runs have no image of a prompt and a seed in common in the set {shown(new.set)}; choose "
                "runs that generated the same prompts, or leave the list of prompts out"
            )
        return _row(studies.create(new.title, pairs), studies)

    @router.get("/{study}")
    def one(study: str) -> dict[str, Any]:
        found = studies.study(study)
        raters = [{"name": one.name, "done": len(studies.voted(one))} for one in studies.raters(study)]
        return _row(found, studies) | {"raters": raters, "rates": win_rates(found.pairs, studies.votes(study))}

    @router.post("/{study}/raters")
    def invite(study: str, new: NewRater) -> dict[str, str]:
        rater, key = studies.invite(studies.study(study), new.name)
        return {"name": rater.name, "path": f"{study}.{key}"}

    return router


def make_rating_app(images: GeneratedImages, studies: Studies) -> FastAPI:
    """Return the application of a rater; who it is stands in the request's state."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(page_router())
    app.include_router(_rating(images, studies), prefix="/api")
    handle_errors(app)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(FILES / "rate.html")

    return app


def _rating(images: GeneratedImages, studies: Studies) -> APIRouter:
    router = APIRouter()

    @router.get("/work")
    def work(request: Request) -> dict[str, Any]:
        rater, study, voted = _whose(request, studies)
        left = [position for position, pair in enumerate(rater.order) if pair not in voted]
        return {"name": rater.name, "title": study.title, "total": len(rater.order), "left": left}

    @router.get("/pairs/{position}")
    def pair(request: Request, position: int) -> dict[str, Any]:
        rater, study, _ = _whose(request, studies)
        number = _number(rater, position)
        vote = studies.vote_on(rater, number)
        said = None if vote is None else {name: _exchange(rater, number, getattr(vote, name)) for name in _QUESTIONS}
        return {"prompt": study.pairs[number].prompt, "vote": said}

    @router.get("/pairs/{position}/{side}")
    def image(request: Request, position: int, side: Literal["left", "right"]) -> Response:
        rater, study, _ = _whose(request, studies)
        number = _number(rater, position)
        one = getattr(study.pairs[number], _SIDES[(side == "left") != rater.exchanged[number]])
        return png(images.image(one.run, one.set, one.index))

    @router.post("/pairs/{position}")
    def vote(request: Request, position: int, new: NewVote) -> dict[str, Any]:
        rater, _, _ = _whose(request, studies)
        number = _number(rater, position)
        said = {name: _choice(rater, number, getattr(new, name)) for name in _QUESTIONS}
        studies.vote(rater, number, Vote.model_validate(said))
        return work(request)

    return router


_QUESTIONS: Final = ("alignment", "fidelity")
_SIDES: Final = {True: "first", False: "second"}


def _whose(request: Request, studies: Studies) -> tuple[Rater, Study, set[int]]:
    rater: Rater = request.state.rater
    return rater, studies.study(rater.study), studies.voted(rater)


def _number(rater: Rater, position: int) -> int:
    if not 0 <= position < len(rater.order):
        raise NoStudy(f"pair {position}: there are {len(rater.order)}, from 0 on")
    return rater.order[position]


def _choice(rater: Rater, number: int, said: str) -> str:
    """Return which image is meant by the side on which it was shown."""
    return said if said == "tie" else _SIDES[(said == "left") != rater.exchanged[number]]


def _exchange(rater: Rater, number: int, choice: str) -> str:
    """Return the side on which an image is shown."""
    return choice if choice == "tie" else ("left" if (choice == "first") != rater.exchanged[number] else "right")


def _row(study: Study, studies: Studies) -> dict[str, Any]:
    runs = list(dict.fromkeys(side.run for pair in study.pairs for side in (pair.first, pair.second)))
    return {
        "study": study.study,
        "title": study.title,
        "created": study.created,
        "pairs": len(study.pairs),
        "runs": runs,
    }
