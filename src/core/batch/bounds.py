"""The lower bounds of `pyproject.toml`, as constraints for pip.

`python -m core.batch.bounds [REQUIREMENT...]` prints them, one package a line; what is named
after it stands in place of that package's own bound.
"""

import sys
import tomllib
from pathlib import Path

BOUNDS = (">=", "==")


def lowest(pyproject: str, instead: tuple[str, ...] = ()) -> list[str]:
    """Return the oldest version that is allowed of each package, `name==version`, in order.

    Args:
        pyproject: text of the file; all extras count, the highest bound of a package wins.
        instead: requirements that replace the bound of their package.

    Raises:
        ValueError: a package has no lower bound, or a requirement cannot be read.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    found: dict[str, Version] = {}
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name == canonicalize_name(project["name"]):
            continue  # an extra that is made of others
        bounds = [Version(s.version) for s in requirement.specifier if s.operator in BOUNDS]
        if not bounds:
            raise ValueError(f"{requirement} has no lower bound: write {name}>=...")
        found[name] = max(*bounds, found.get(name, bounds[0]))
    lines = {name: f"{name}=={version}" for name, version in found.items()}
    lines |= {canonicalize_name(Requirement(line).name): line for line in instead}
    return [lines[name] for name in sorted(lines)]


if __name__ == "__main__":
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(lowest(text, tuple(sys.argv[1:]))))
