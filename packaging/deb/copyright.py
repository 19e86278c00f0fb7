"""copyright.py FOLDER: the package's copyright file: Torpor's own licence, and that of every library in the folder."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from email.message import Message
from importlib.metadata import Distribution, distributions

_HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: torpor
Comment: The package holds the libraries that Torpor runs on. The full text of each one's licence lies in
 /usr/lib/torpor, in the folder LIBRARY-VERSION.dist-info of its library.

Files: *
Copyright: {year} the authors of Torpor
License: Apache-2.0
 On Debian systems the full text of the Apache License, version 2.0, lies in
 /usr/share/common-licenses/Apache-2.0.
"""


def main() -> None:
    """Run the command line."""
    found = sorted(distributions(path=[sys.argv[1]]), key=lambda each: each.metadata["Name"].lower())
    bundled = [each for each in found if each.metadata["Name"] != "torpor"]
    year = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).year
    print("\n".join((_HEAD.format(year=year), *map(_stanza, bundled))), end="")


def _stanza(library: Distribution) -> str:
    """Return what is said of one library."""
    about: Message = library.metadata  # type: ignore[assignment]
    name = about["Name"]
    return "\n".join(
        (
            f"Files: usr/lib/torpor/lib/*/site-packages/{name}*",
            f"Copyright: {_author(about)}",
            f"License: {_licence(about)}",
            f" As stated by {name} {library.version}.",
            "",
        )
    )


def _author(about: Message) -> str:
    for key in ("Author", "Author-email", "Maintainer", "Maintainer-email"):
        if about[key]:
            return " ".join(about[key].split())
    return f"the authors of {about['Name']}"


def _licence(about: Message) -> str:
    """Return an expression, else the classifiers', else the first line of the old free field."""
    if about["License-Expression"]:
        return str(about["License-Expression"])
    classified = [
        each.rpartition(" :: ")[2] for each in about.get_all("Classifier", []) if each.startswith("License :: ")
    ]
    words = " and ".join(classified) or (about["License"] or "see-its-dist-info").strip().splitlines()[0]
    return words.replace(" ", "-")


if __name__ == "__main__":
    main()
