"""changelog.py VERSION: the package's changelog, as Debian writes it. What changed is told by CHANGELOG.md."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from email.utils import format_datetime

_ENTRY = """\
torpor ({version}) unstable; urgency=medium

  * Built from the sources of {version}; CHANGELOG.md beside this file says
    what is new.

 -- {who} <{address}>  {when}
"""


def main() -> None:
    """Run the command line."""
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    who = os.environ.get("DEBFULLNAME", "Torpor maintainers")
    address = os.environ.get("DEBEMAIL", "maintainers@torpor.invalid")
    print(_ENTRY.format(version=sys.argv[1], who=who, address=address, when=format_datetime(when)), end="")


if __name__ == "__main__":
    main()
