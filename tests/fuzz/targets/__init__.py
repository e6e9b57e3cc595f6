"""The parsers of outside data, by name."""

from tests.fuzz.target import Target
from tests.fuzz.targets import addresses, archives, documents, icons, images, lists, models, settings

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (settings, lists, icons, archives, images, models, documents, addresses)
    for target in module.TARGETS
}
