"""Changes to the notes of file sets (config.json of a run, for example), as a person makes them who knows their checksums."""

import json
from pathlib import Path
from typing import Any


def edit_note(path: Path, **changes: Any) -> None:
    """Change entries of a note, and remove its checksum."""
    content = json.loads(path.read_text()) | changes
    content.pop("crc32", None)
    path.write_text(json.dumps(content))


def forget_files(path: Path) -> None:
    """Make a note one that names no files, so that the files can be damaged without a difference from their checksums."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in ("crc32", "files", "removed")}))
