"""An archive with other worker settings."""

import zipfile
from pathlib import Path
from typing import Any

import yaml


def with_config(archive: Path, target: Path, **changes: Any) -> Path:
    """Copy `archive` with another worker configuration; what is a mapping is merged."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "model-config.yaml":
                config = yaml.safe_load(content)
                for key, value in changes.items():
                    config[key] = config[key] | value if isinstance(value, dict) else value
                content = yaml.safe_dump(config).encode()
            copy.writestr(name, content)
    return target
