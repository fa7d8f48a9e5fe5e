"""Files: whole, or as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.files import whole


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data.bin"
    with whole(path) as file:
        file.write(b"all ")
        assert not path.exists()
        file.write(b"of it")
    assert path.read_bytes() == b"all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_file_that_is_not_written_whole_is_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"before")
    with pytest.raises(type(error)), whole(path) as file:
        file.write(b"af")
        raise error
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
