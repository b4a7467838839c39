"""Files are whole or as they were."""

from pathlib import Path

import pytest

from training.whole_file import check_writable, write_whole


def test_nothing_is_replaced_unless_everything_can_be_written(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    write_whole({kept: "before"})
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_whole({kept: "after", tmp_path / "file" / "below.txt": "x"})
    assert kept.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "kept.txt"]


def test_asking_whether_a_file_can_be_written_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    check_writable(path)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(path.parent)
