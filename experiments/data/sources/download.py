"""Downloads of files, which continue after an interruption and are checked."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from experiments.runs import progress

BLOCK = 1 << 20  # bytes: a MiB


def fetch(url: str, path: Path, md5: str) -> Path:
    """Downloads url to path unless path exists; continues an interrupted download.

    Raises:
        ValueError: the network fails, or the file has another checksum.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            _receive(url, part)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(
                f"{url} could not be downloaded ({error}): run the same again to continue, or "
                "download it in another way and set config.data.path to the file"
            ) from error
        try:
            check_md5(part, md5, "it was deleted: run the same again")
        except ValueError:
            part.unlink()
            raise
        part.replace(path)
    return path


def check_md5(path: Path, md5: str, remedy: str = "delete it and download it again") -> None:
    """Raises ValueError if the file at path has another checksum."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        raise ValueError(
            f"{path} is damaged or another file: its MD5 sum is {actual}, expected {md5}; {remedy}"
        )


def _receive(url: str, part: Path) -> None:
    """Appends the rest of the file at url to `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after the last byte: `part` is complete
            return
        raise
    with response:
        have = have if response.status == 206 else 0  # the server sends all of it again
        length = response.headers["Content-Length"]
        total = length and have + int(length)
        blocks = total and -(-total // BLOCK)
        with (
            part.open("ab" if have else "wb") as file,
            progress.working(f"downloading {part.stem}", blocks or None, "MiB") as shown,
        ):
            shown.update(have // BLOCK)
            while block := response.read(BLOCK):
                file.write(block)
                shown.update()
        if total and part.stat().st_size < total:
            raise ConnectionError(f"it ended after {part.stat().st_size} of {total} bytes")
