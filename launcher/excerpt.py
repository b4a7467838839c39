"""`python -m launcher.excerpt godel.mar tokenizer.mar`: of an archive, what a gateway reads, without the weights."""

import argparse
import sys
import zipfile
from pathlib import Path

from handler.contract.archive import METADATA, TOKENIZER, ArchiveError, read_metadata


def main(arguments: list[str] | None = None) -> int:
    """Write the excerpt; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launcher.excerpt", description="Leave the weights out.")
    parser.add_argument("archive", type=Path, help="a model archive (.mar)")
    parser.add_argument("excerpt", type=Path, help="where to write; GODEL_TOKENIZER may name it")
    options = parser.parse_args(arguments)
    try:
        write_excerpt(options.archive, options.excerpt)
    except (ArchiveError, OSError, zipfile.BadZipFile) as error:
        print(f"excerpt: {error}", file=sys.stderr)
        return 1
    return 0


def write_excerpt(archive: Path, excerpt: Path) -> None:
    """Write a zip of the metadata and the tokenizer of `archive`, whole or not at all.

    Raises ArchiveError, BadZipFile or OSError.
    """
    read_metadata(archive)
    if excerpt.exists() and excerpt.samefile(archive):
        raise ArchiveError(f"{excerpt} is the archive itself; give the excerpt another name")
    half = excerpt.with_name(f".{excerpt.name}.half")
    try:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as target:
            for name in (METADATA, TOKENIZER):
                target.writestr(zipfile.ZipInfo(name), source.read(name), zipfile.ZIP_DEFLATED)
        half.replace(excerpt)
    finally:
        half.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
