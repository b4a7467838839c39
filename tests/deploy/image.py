"""What the Dockerfile says of an image, and its processes run as a container would run them, without an engine.

bubblewrap makes the root: read-only, of what the image's last stage copies, and nothing of this checkout beside. The
process is the first of its own process namespace, has the image's account (its number alone; no name, no home), its
environment and no other, no capabilities. The packages are those of the image's lock alone.
Not covered: the base image (this machine's Python and C library stand in for it) and the building itself.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil

from launcher.properties import ROOT
from tests.gateway.required import require

DOCKERFILE = ROOT / "Dockerfile"


@dataclass
class Image:
    """One stage of the Dockerfile, with what it takes over from the stages it is made from."""

    copies: list[tuple[str, str]] = field(default_factory=list)
    """Source in the context and target."""
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    folder: str = "/"
    ports: list[int] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    instructions: list[tuple[str, str]] = field(default_factory=list)


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and their arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, " ".join(argument.split())) for name, argument in pairs]


def read_images() -> dict[str, Image]:
    """Return every stage by name."""
    stages: dict[str, Image] = {}
    image = Image()
    for name, argument in instructions():
        if name == "FROM":
            base, _, stage = argument.split()
            parent = stages.get(base, Image())
            image = stages[stage] = Image(
                list(parent.copies), dict(parent.environment), parent.user, parent.folder,
                list(parent.ports), instructions=list(parent.instructions),
            )  # fmt: skip
        image.instructions.append((name, argument))
        match name:
            case "COPY" if not argument.startswith("--from"):
                *sources, target = argument.split()
                image.copies += [(source, target) for source in sources]
            case "ENV":
                image.environment |= dict(part.split("=", 1) for part in shlex.split(argument))
            case "USER":
                image.user = argument
            case "WORKDIR":
                image.folder = argument
            case "EXPOSE":
                image.ports += [int(port) for port in argument.split()]
            case "HEALTHCHECK" if "CMD" in argument:
                image.healthcheck = json.loads(argument[argument.index("[") :])
            case "ENTRYPOINT":
                image.entrypoint = json.loads(argument)
            case "CMD":
                image.command = json.loads(argument)
    return stages


def lay_out(image: Image, root: Path) -> None:
    """Copy into `root` what the stage copies from the context, as any account may read it."""
    for source, target in image.copies:
        place = root / target.lstrip("/")
        if target.endswith("/"):
            place = place / Path(source).name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / source, place)


def lay_out_packages(locks: list[str], folder: Path) -> None:
    """Make `folder` a virtual environment that holds the packages of `locks`, and no others, as links to ours."""
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    (folder / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    for lock in locks:
        for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            package = distribution(line.split("==")[0])
            for top in {Path(file).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(str(package.locate_file(top))))


class Container:
    """A process in a root of its own."""

    def __init__(
        self,
        command: list[str],
        *,
        image: Image,
        root: Path,
        environment: Mapping[str, str] | None = None,
        read_only: Mapping[str, Path] | None = None,
        writable: Mapping[str, Path] | None = None,
        packages: Path | None = None,
    ) -> None:
        """`read_only` and `writable` are the mounts, by their places inside."""
        bwrap = require(shutil.which("bwrap"), "bubblewrap", "apt-get install bubblewrap")
        user, group = image.user.split(":")
        given, taken = os.pipe()
        line = [bwrap, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1"]
        line += ["--info-fd", str(taken), "--clearenv", "--new-session"]
        own = dict.fromkeys(("/usr", sys.base_prefix, "/etc/ld.so.cache", str(ROOT / ".venv"), sys.prefix))
        fixed = {place: Path(place) for place in own} | {"/app": root / "app"} | dict(read_only or {})
        fixed |= {"/opt/venv": packages} if packages else {}
        changing = writable or {}
        # bubblewrap would make the folders above a mount for their owner alone.
        above = {str(parent) for place in (*fixed, *changing) for parent in Path(place).parents[:-1]}
        for folder in sorted(above - {"/usr", "/app"}):
            line += ["--perms", "0755", "--dir", folder]
        for inside, outside in sorted(fixed.items()):
            line += ["--ro-bind", str(outside), inside]
        for inside, outside in changing.items():
            line += ["--bind", str(outside), inside]
            if os.getuid() == 0:
                os.chown(outside, int(user), int(group))
        for name in ("bin", "sbin", "lib", "lib64"):
            line += ["--symlink", f"usr/{name}", f"/{name}"]
        # The image brings a Java of its own: what this machine has is out of sight.
        line += ["--tmpfs", "/usr/lib/jvm"] if Path("/usr/lib/jvm").is_dir() else []
        line += ["--proc", "/proc", "--dev", "/dev"]
        for name, value in {**image.environment, **(environment or {})}.items():
            line += ["--setenv", name, value]
        line += ["--remount-ro", "/", "--chdir", image.folder]
        if os.getuid() == 0:
            line += ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
            line += ["--bounding-set=-all", "--"]
        else:
            line[1:1] = ["--unshare-user", "--uid", user, "--gid", group]
        self._process = subprocess.Popen(
            [*line, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[taken]
        )
        os.close(taken)
        with os.fdopen(given) as info:
            self.pid: int = json.load(info)["child-pid"]
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str, seconds: float = 90) -> str:
        """Return the first group (or all) of the first match in the log, once it is there."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: re.search(pattern, "".join(self._lines)) or self._ended, timeout=seconds
            )
        if not isinstance(found, re.Match):
            raise AssertionError(f"{pattern!r} is not in the log:\n{self.log}")
        return str(found.group(1) if found.re.groups else found.group())

    def first(self) -> psutil.Process:
        """Return its first process, as this machine sees it."""
        return psutil.Process(self.pid)

    def terminate(self) -> None:
        """Send its first process SIGTERM, as a container engine does."""
        self.first().send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        """Return the exit code, once it has ended."""
        code = self._process.wait(timeout=seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """End it, whatever its state."""
        if self._process.poll() is None:
            with contextlib.suppress(psutil.Error):
                self.first().kill()  # the first of a process namespace takes all others with it
            self._process.kill()
        self._process.wait(10)
        if self._process.stdout:
            self._reader.join(5)
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextlib.contextmanager
def container(command: list[str], **options: Any) -> Iterator[Container]:
    """Yield a running container; end it after."""
    running = Container(command, **options)
    try:
        yield running
    finally:
        running.close()
