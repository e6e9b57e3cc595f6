"""Configuration sections: frozen models whose identity is what a stage's result depends on."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationInfo, create_model
from pydantic import Field as Key
from pydantic.fields import FieldInfo

from models.fields import given_fields
from stages.contract.digests import address_digest, content_digest
from stages.contract.secrets import redact_addresses, redact_path, redact_tree
from stages.contract.texts import one_line, show_value
from stages.storage.filesystems import is_remote, local_path, wraps_local_path

T = TypeVar("T")


class RuntimeOnly:
    """Marks a config field that says where or how fast to run, and so does not enter the fingerprint."""


class ByContent:
    """Marks a path field that enters the fingerprint by the content of the file or folder, never by its name."""


def beside_config(value: Any, info: ValidationInfo) -> Any:
    """Resolve a relative path beside the YAML file or one that it extends, else in the current folder."""
    if not isinstance(value, str | Path):
        return value
    if value == "":
        raise ValueError("found '': expected a path")
    try:
        path = Path(local_path(str(value))).expanduser()
        for folder in (info.context or {}).get("folders", ()):
            if not path.is_absolute() and (Path(folder) / path).exists():
                return _resolved(Path(folder) / path)
        return _resolved(path)
    except (OSError, RuntimeError, ValueError) as error:  # no home folder, links in a circle, a NUL, no way in
        raise ValueError(f"found {show_value(str(value))}, which is no path here: {one_line(error, 200)}") from None


def _resolved(path: Path) -> Path:
    """Resolve a path; a link to a file keeps its own name where that alone says of which format the file is.

    A cache of models or datasets holds its files under their checksums, and links under their names.
    """
    target = path.resolve()
    return target if target.suffix == path.suffix or target.is_dir() else path.parent.resolve() / path.name


ExternalPath = Annotated[Path, BeforeValidator(beside_config), ByContent()]


def beside_config_unless_uri(value: Any, info: ValidationInfo) -> Any:
    """Leave an address of another machine as it is, and resolve any other path as :func:`beside_config` does."""
    if isinstance(value, str) and wraps_local_path(value):
        raise ValueError(
            f"found {value!r}: allowed are a path of this machine as it is, and addresses of other machines"
        )
    if not isinstance(value, str | Path) or is_remote(local_path(str(value))):
        return value
    return str(beside_config(value, info))


#: An address, which may hold credentials: it is used as it is, and dumped as JSON without them.
AnyAddress = Annotated[str, PlainSerializer(redact_addresses, when_used="json")]

#: An address that is a secret as a whole, but for its host; its key is listed in :mod:`stages.contract.secrets`.
SecretAddress = Annotated[str, PlainSerializer(redact_path, when_used="json")]

#: A folder or file here, or at any address that fsspec knows (s3://, gs://); see :func:`address_digest`.
Address = Annotated[AnyAddress, BeforeValidator(beside_config_unless_uri), ByContent()]


class ConfigModel(BaseModel):
    """Base of every configuration section: frozen; unknown keys are errors, and so are infinity and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def shown(self) -> dict[str, Any]:
        """Return, JSON-ready, what is recorded of the section: everything but credentials."""
        content: dict[str, Any] = redact_tree(self.model_dump(mode="json"))
        return content

    def identity(self) -> dict[str, Any]:
        """Return, JSON-ready, what the result depends on; FileNotFoundError: a file that it names is not there."""
        known = self.known_identity()
        return {
            name: known[name] if name in known else _identity_of(getattr(self, name), _marks_of(info))
            for name, info in type(self).model_fields.items()
            if not any(isinstance(mark, RuntimeOnly) for mark in info.metadata)
        }

    def known_identity(self) -> Mapping[str, Any]:
        """Return the identity of fields whose content is known without a look at it."""
        return {}


def _marks_of(field: FieldInfo) -> list[Any]:
    return [*field.metadata, *_marks_within(field.annotation)]


def _marks_within(annotation: Any) -> list[Any]:
    """Return the marks of the alternatives of a union, which pydantic leaves inside it (``Address | None``)."""
    return [mark for option in get_args(annotation) for mark in getattr(option, "__metadata__", ())]


def _identity_of(value: Any, metadata: list[Any]) -> Any:
    if isinstance(value, ConfigModel):
        return value.identity()
    if is_dataclass(value):  # a model's spec, embedded in the section
        value = {item.name: getattr(value, item.name) for item in given_fields(value)}
    if isinstance(value, tuple | list):
        return [_identity_of(item, metadata) for item in value]
    if isinstance(value, dict):
        return {str(key): _identity_of(item, metadata) for key, item in value.items()}
    if isinstance(value, Path):
        return content_digest(value)
    if isinstance(value, str) and any(isinstance(mark, ByContent) for mark in metadata):
        return address_digest(value)
    return value


def spec_from(section: ConfigModel, spec: Callable[..., T], **given: Any) -> T:
    """Return the spec whose fields are those given, and else the section's fields of the same names."""
    names = {item.name for item in fields(spec)} - given.keys()  # type: ignore[arg-type]
    return spec(**given, **{name: getattr(section, name) for name in names if hasattr(section, name)})


def section_of(spec: type[Any], settings: Mapping[str, Field[Any]], *, base: Any, module: str, **keys: Any) -> Any:
    """Return the section of a kind whose keys are these fields of its spec, and ``keys``.

    It belongs to the module, which keeps it under its name.
    """
    hints = get_type_hints(spec, include_extras=True)
    given = {name: (hints[name], _default(item)) for name, item in settings.items()}
    make: Any = create_model  # the type checker knows no keys that are given as a mapping
    return make(
        f"{spec.__name__.removesuffix('Spec')}Config",
        __base__=base,
        __module__=module,
        __doc__=spec.__doc__,
        kind=(hints["kind"], ...),
        **given,
        **keys,
    )


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return Key(default_factory=item.default_factory)
    return ... if item.default is MISSING else item.default
