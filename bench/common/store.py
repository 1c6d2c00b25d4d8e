"""Results that a long benchmark keeps in its JSON file, to go on with later."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common.report import write_record


class Store:
    """Results by key, in the JSON file if there is one; with `resume` those it holds already.

    Raises SystemExit if they were made with other settings.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], resume: bool) -> None:
        self.path, self.settings = path, settings
        self.results: dict[str, Any] = {}
        if resume and path is not None and path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["settings"] != json.loads(json.dumps(settings)):
                raise SystemExit(
                    f"{path} was made with {record['settings']}, not {settings}; name another "
                    "file, or run without --resume to replace it"
                )
            self.results = record["results"]

    def add(self, key: str, result: Any) -> None:
        """Keep a result at once."""
        self.results[key] = result
        self.write({})

    def write(self, more: Mapping[str, Any]) -> None:
        """Write `more`, settings and results."""
        if self.path is not None:
            write_record(self.path, {**more, "settings": self.settings, "results": self.results})
