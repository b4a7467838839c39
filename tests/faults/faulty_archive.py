"""An archive whose engine needs no weights and, when a prompt says so, dies, hangs, wants all memory or takes much."""

import re
import zipfile
from pathlib import Path

from training.archive import build_archive

KILL, HANG, MEMORY, EAT = "poisonkill", "poisonhang", "poisonmemory", "poisoneat"
"""Words in a prompt that make the engine do it."""

EATEN = 256 << 20
"""How many bytes it takes for EAT."""

HANG_SECONDS = 5
"""After which a hung worker is replaced here; 15 in archives as they come."""

_RESPONSE_TIMEOUT = re.compile(rb"(?m)^responseTimeout: \d+")

ENGINE = "handler/engines/echo_engine.py"

FAULTS = f'''

def _faulty(encode):
    from pathlib import Path

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(next(Path(__file__).parents[2].rglob("tokenizer.json"))))

    def faulty(self, slot, prompt_ids):
        text = tokenizer.decode(list(prompt_ids))
        if "{KILL}" in text:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        if "{HANG}" in text:
            import time
            time.sleep(3600)
        if "{MEMORY}" in text:
            raise MemoryError
        if "{EAT}" in text:
            eaten = b"x" * {EATEN}
        encode(self, slot, prompt_ids)

    return faulty


def _slow(step):
    def slow(self, slots, tokens):
        import time
        time.sleep(0.005)
        return step(self, slots, tokens)

    return slow


EchoEngine.encode = _faulty(EchoEngine.encode)
EchoEngine.step = _slow(EchoEngine.step)
'''


def build_faulty_archive(path: Path) -> None:
    """Build it at `path`."""
    sound = path.with_name(f"sound-{path.name}")
    build_archive("models/embedded", sound, engine="echo", precision="auto")
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == ENGINE:
                content += FAULTS.encode()
            if name == "model-config.yaml":
                content, count = _RESPONSE_TIMEOUT.subn(f"responseTimeout: {HANG_SECONDS}".encode(), content)
                assert count == 1
            target.writestr(name, content)
    sound.unlink()
