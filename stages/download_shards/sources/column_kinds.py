"""Which types of Arrow's columns hold texts, lists of texts, bytes, and images as the datasets library keeps them."""

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Return whether the values are texts, or all null."""
    types = pa.types
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    )


def is_text_or_texts(kind: pa.DataType) -> bool:
    """Return whether the values are texts or lists of texts."""
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_text(kind.value_type) if is_list else is_text(kind)


def is_image(kind: pa.DataType) -> bool:
    """Return whether the values can be images: a struct of bytes and path, or one of them, or bytes or path alone."""
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        known = [_is_bytes(fields.get("bytes", pa.binary())), is_text(fields.get("path", pa.string()))]
        return bool({"bytes", "path"} & fields.keys()) and all(known)
    return _is_bytes(kind) or is_text(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes or structs, for which a shard has no column."""
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        return True
    if pa.types.is_nested(kind):
        return holds_bytes(kind.value_type)
    return _is_bytes(kind) and not pa.types.is_null(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_null(kind)
    )
