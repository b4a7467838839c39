"""Checkpoint folders of T5's published geometries with seeded random weights: speed does not ask what they say.

Made by the project's own builders and kept under `build/bench/checkpoints`; no model hub is asked. The tokenizer
gives one token to each word, and token `n` is spelt `w{n}`, so that a text of N words has N tokens and the end.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from training.model import new_model
from training.model_folder import save_model
from training.student import make_student
from training.tokenizer import CONTROL_TOKENS, END, UNKNOWN

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build" / "bench"
SEED: Final = 20
EMBEDDING_SPREAD: Final = 0.1
LOGIT_SPREAD: Final = 4.0
"""Standard deviations. T5's own first embeddings, of 1, drown what the layers add: the model would repeat one token
for ever, with certainty. With these, top-p has hundreds of tokens to choose from, as of a trained model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The shape of a T5 v1.0, named as in its config.json; every head has width `d_kv`."""

    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    vocabulary: int = 32128


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """What `training.student` makes of a teacher: so many of its layers, evenly spaced; all of its vocabulary."""

    teacher: str
    encoder_layers: int
    decoder_layers: int


GEOMETRIES: Final[dict[str, Geometry]] = {
    "base": Geometry(d_model=768, d_kv=64, d_ff=3072, num_heads=12, num_layers=12, num_decoder_layers=12),
    "large": Geometry(d_model=1024, d_kv=64, d_ff=4096, num_heads=16, num_layers=24, num_decoder_layers=24),
    "tiny": Geometry(d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, num_decoder_layers=2, vocabulary=1024),
}
"""base and large are those of T5 (Raffel et al. 2020, appendix E) and GODEL; tiny is for tests and `--quick`."""

STUDENTS: Final[dict[str, Student]] = {
    "mini": Student(teacher="large", encoder_layers=6, decoder_layers=2),
    "tiny-mini": Student(teacher="tiny", encoder_layers=1, decoder_layers=1),
}


def describe(name: str) -> str:
    """Return the geometry of a checkpoint in a few words, for beside its figure."""
    if student := STUDENTS.get(name):
        geometry, layers = GEOMETRIES[student.teacher], (student.encoder_layers, student.decoder_layers)
    else:
        geometry = GEOMETRIES[name]
        layers = (geometry.num_layers, geometry.num_decoder_layers)
    return f"{layers[0]}+{layers[1]} layers, d_model {geometry.d_model}, vocabulary {geometry.vocabulary}"


def checkpoint(name: str, build: Path = BUILD) -> Path:
    """Return the folder of the checkpoint `name`, made now unless it is there. Raises KeyError for another name."""
    made_of: Geometry | Student
    if student := STUDENTS.get(name):
        made_of, source = student, repr(GEOMETRIES[student.teacher])
    else:
        made_of, source = GEOMETRIES[name], ""
    # What it is made of is in its name, so that a changed geometry is never measured with the old weights.
    digest = hashlib.sha256(f"{made_of!r}{source}{SEED} {EMBEDDING_SPREAD} {LOGIT_SPREAD}".encode()).hexdigest()[:8]
    home = build / "checkpoints" / f"{name}-{digest}"
    if (home / "model").is_dir():
        return home / "model"
    if isinstance(made_of, Student):
        teacher = checkpoint(made_of.teacher, build)
        return make_student(teacher, home, str(made_of.encoder_layers), str(made_of.decoder_layers), None, [])
    shape = asdict(made_of)
    tokenizer = word_tokenizer(shape.pop("vocabulary"))
    model = new_model(tokenizer, seed=SEED, circuits=False, **shape)
    with torch.no_grad():
        model.shared.weight.mul_(EMBEDDING_SPREAD)
        model.decoder.final_layer_norm.weight.fill_(LOGIT_SPREAD / EMBEDDING_SPREAD)
    return save_model(model, tokenizer, home / "model")


def word_tokenizer(vocabulary: int) -> Tokenizer:
    """Return a tokenizer of `vocabulary` tokens: the control tokens, then `w{id}` each."""
    first = list(CONTROL_TOKENS)
    words = [*first, *(f"w{number}" for number in range(len(first), vocabulary))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, CONTROL_TOKENS.index(END))]
    )
    tokenizer.add_special_tokens(first)
    return tokenizer
