"""What is secret in the addresses that an address holds: ``?to=https://user:password@host/``, as it is or quoted.

Proxies, archives and resizers of images name in their own address the one that they fetch, in the path or in the query,
and quote its characters once or several times (``%3A``, ``%253A``). All is found in time that grows with the length.
"""

import re
from collections.abc import Callable

_QUOTED = "%(?:25)*"
_LOGIN = re.compile(
    rf"(?P<mark>(?::|{_QUOTED}3A)(?:/|{_QUOTED}2F){{2,3}})"
    rf"(?:(?!{_QUOTED}(?:2F|3F|23|26|20))[^/?#&\s\"'<>`])*(?P<at>@|{_QUOTED}40)",
    re.IGNORECASE,
)
_MARK = rf"(?P<mark>[?&;#]|{_QUOTED}(?:3F|26|3B|23))"
_PARAMETER = re.compile(rf"{_MARK}(?P<name>[^=&;#?%/]{{1,128}})(?:=|{_QUOTED}3D)", re.IGNORECASE)
_END, _QUOTED_END = re.compile("[&;#]"), re.compile(rf"[&;#]|{_QUOTED}(?:26|3B|23)", re.IGNORECASE)


def without_nested_logins(rest: str, mask: str = "") -> str:
    """Return an address, or what follows its host, with the user and password of each address in it replaced."""
    if "://" not in rest and "%" not in rest:
        return rest
    return _LOGIN.sub(lambda found: f"{found['mark']}{mask}{found['at'] if mask else ''}", rest)


def without_nested_values(url: str, is_secret: Callable[[str], bool], mask: str) -> str:
    """Return an address with the values of secret parameters replaced, of its own query and of addresses in it."""
    query, parts, at = url.find("?") % (len(url) + 1), [], 0
    while (found := _PARAMETER.search(url, at)) is not None:
        is_quoted = found["mark"][0] == "%"
        end = found.end()
        parts.append(url[at:end])
        if is_secret(found["name"]) and (is_quoted or found.start() >= query):
            parts.append(mask)
            after = (_QUOTED_END if is_quoted else _END).search(url, end)
            end = len(url) if after is None else after.start()
        at = end
    return "".join([*parts, url[at:]])
