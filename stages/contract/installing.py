"""How the project is installed, for messages and documents: from a checkout, as it is on no package index.

A name that nobody has published there may be taken by anybody, so no text says to install it by its name alone.
"""


def install_words(extra: str = "") -> str:
    """Return how it is installed, with one of its extras."""
    what = f"'.[{extra}]'" if extra else "."
    return f"`pip install {what}` in a checkout of Corgi Pipeline"
