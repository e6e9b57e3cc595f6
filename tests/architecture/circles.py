"""Find import circles: ``python -m tests.architecture.circles`` prints each, then their number.

Imports inside functions and under TYPE_CHECKING count too. A circle is a largest set of modules that all reach one
another, so two loops through one module are one circle.
"""

import grimp

PACKAGES = ("pipeline", "stages", "cluster", "models")


def find_circles() -> list[frozenset[str]]:
    """Return the circles, in alphabetical order."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    upstream = {module: graph.find_upstream_modules(module) for module in graph.modules}
    circles = {
        frozenset({module} | {other for other in reached if module in upstream[other]})
        for module, reached in upstream.items()
    }
    return sorted((circle for circle in circles if len(circle) > 1), key=sorted)


def main() -> None:
    """Print the circles."""
    circles = find_circles()
    for circle in circles:
        print(" <-> ".join(sorted(circle)))
    print(f"{len(circles)} circles")


if __name__ == "__main__":
    main()
