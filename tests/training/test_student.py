"""Students: which layers and tokens are kept, what that does to ids, and that the result is served."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from handler.engines.base import EngineError
from training.answers import Answerer
from training.checkpoint import CheckpointError
from training.export import export
from training.model_folder import load_model, save_model
from training.student import StudentError, choose_layers, main, make_student, restructure
from training.vocabulary import VocabularyError, trim


@pytest.mark.parametrize(
    ("wanted", "there", "kept"),
    [
        ("12", 12, list(range(12))),
        ("6", 12, [0, 2, 4, 7, 9, 11]),
        ("1", 4, [3]),
        ("2", 6, [0, 5]),
        ("0,2,3", 4, [0, 2, 3]),
    ],
)
def test_layers_are_kept_evenly_spaced_or_as_named(wanted: str, there: int, kept: list[int]) -> None:
    assert choose_layers(wanted, there) == kept


@pytest.mark.parametrize("wanted", ["0", "5", "1,1", "2,1", "0,4", "some", "-1"])
def test_layers_that_are_not_there_are_refused(wanted: str) -> None:
    with pytest.raises(StudentError, match="layers"):
        choose_layers(wanted, 4)


def test_a_student_of_all_layers_is_its_teacher(tiny_model: Path) -> None:
    teacher, _ = load_model(tiny_model)
    student = restructure(teacher, range(4), range(2))
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)


def test_a_student_has_its_teachers_layers_in_order_and_its_position_bias(tiny_model: Path) -> None:
    teacher, _ = load_model(tiny_model)
    student = restructure(teacher, [1, 3], [1])
    for stack, new, old in (("encoder", 0, 1), ("encoder", 1, 3), ("decoder", 0, 1)):
        name = "block.{}.layer.0.SelfAttention.q.weight"
        assert torch.equal(
            getattr(student, stack).state_dict()[name.format(new)],
            getattr(teacher, stack).state_dict()[name.format(old)],
        )
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(student.state_dict()[bias], teacher.state_dict()[bias])


def test_a_trimmed_student_keeps_each_tokens_embedding_and_answers_what_its_teacher_does(
    tmp_path: Path, data: Path, tiny_model: Path
) -> None:
    folder = make_student(tiny_model, tmp_path / "student", "4", "2", 400, [data / "train.jsonl"])
    teacher, whole = load_model(tiny_model)
    student, trimmed = load_model(folder)
    assert trimmed.get_vocab_size() == 400 < whole.get_vocab_size()
    for token, index in trimmed.get_vocab().items():
        assert torch.equal(student.shared.weight[index], teacher.shared.weight[whole.get_vocab()[token]])
    assert student.config.eos_token_id == trimmed.token_to_id("</s>")
    assert Answerer(folder, precision="fp32")(["Instruction: x [CONTEXT] Hi [KNOWLEDGE] It opens at six."])


def test_a_trimmed_byte_pair_tokenizer_reads_and_writes_every_text(tiny_model: Path) -> None:
    _, whole = load_model(tiny_model)
    trimmed = trim(whole, ["It opens at six in the morning."], 360).tokenizer
    for text in ("It opens at six.", "Zürich ☃ xylophone", "[CONTEXT] a EOS b"):
        ids = trimmed.encode(text).ids
        assert trimmed.decode(ids) == whole.decode(whole.encode(text).ids)
        assert max(ids) < 360


def test_a_trimmed_unigram_tokenizer_has_its_ids_closed_up() -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -2.0), ("▁sea", -3.0), ("▁blue", -4.0)]
    pieces += [(letter, -9.0) for letter in "▁abcdehlstu"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "EOS"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    trimmed = trim(tokenizer, ["the sea the sea"], tokenizer.get_vocab_size() - 1)
    assert trimmed.tokenizer.token_to_id("▁blue") is None
    assert trimmed.tokenizer.token_to_id("EOS") == tokenizer.get_vocab_size() - 2
    assert trimmed.tokenizer.encode("the sea").tokens == ["▁the", "▁sea", "</s>"]
    assert trimmed.tokenizer.decode(trimmed.tokenizer.encode("the blue sea").ids) == "the blue sea"


def test_what_cannot_be_trimmed_is_refused(tiny_model: Path) -> None:
    _, tokenizer = load_model(tiny_model)
    with pytest.raises(VocabularyError, match="is too few"):
        trim(tokenizer, ["text"], 50)
    with pytest.raises(VocabularyError, match="WordPiece"):
        trim(Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1})), ["a"], 10)


def test_a_vocabulary_without_texts_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(StudentError, match="--texts"):
        make_student(tiny_model, tmp_path, "4", "2", 400, [])


@pytest.mark.parametrize(("teacher", "output"), [("p/model", "p"), ("p", "p"), ("p/model/deeper", "p")])
def test_a_student_never_replaces_its_teacher(tmp_path: Path, tiny_model: Path, teacher: str, output: str) -> None:
    shutil.copytree(tiny_model, tmp_path / teacher)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StudentError, match=r"the teacher .*; choose another folder"):
        make_student(tmp_path / teacher, tmp_path / output, "4", "1", None, [])
    assert sorted(tmp_path.rglob("*")) == before
    assert load_model(tmp_path / teacher)[0].config.num_decoder_layers == 2


def test_a_teacher_to_be_replaced_is_not_even_converted(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(hub_folder.rglob("*"))
    line = f"student --model {hub_folder} --output_dir {hub_folder} --encoder_layers 4 --decoder_layers 1"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit, match=r"student: .* choose another folder"):
        main()
    assert sorted(hub_folder.rglob("*")) == before


def test_a_student_that_is_not_served_leaves_the_one_before(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_student(tiny_model, tmp_path, "4", "2", None, [])
    asked = []

    def fail(model: Path, **_: object) -> None:
        asked.append(load_model(model)[0].config.num_decoder_layers)
        raise EngineError("it does not run")

    monkeypatch.setattr("training.student.try_out", fail)
    with pytest.raises(EngineError, match="it does not run"):
        make_student(tiny_model, tmp_path, "4", "1", None, [])
    assert asked == [1]
    assert load_model(folder)[0].config.num_decoder_layers == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_no_engine_serves_is_refused_when_it_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    gated = shutil.copytree(tiny_model, tmp_path / "gated")
    config = json.loads((gated / "config.json").read_text())
    (gated / "config.json").write_text(json.dumps(config | {"feed_forward_proj": "gated-gelu"}))
    shape = tmp_path / "shape.json"
    shutil.copy(gated / "config.json", shape)
    for folder, other in ((gated, None), (tiny_model, gated), (tiny_model, shape)):
        with pytest.raises(CheckpointError, match=r"'gated-gelu'; .* take a T5 v1\.0 or GODEL checkpoint") as refusal:
            load_model(folder, other)
        assert str(refusal.value).startswith(f"{other or folder} would not be served: feed_forward_proj")
    load_model(tiny_model, tiny_model / "config.json")
    with pytest.raises(CheckpointError):
        make_student(gated, tmp_path / "student", "4", "1", None, [])
    assert not (tmp_path / "student").exists()


def test_an_exported_model_is_half_the_size_in_bf16_and_answers(tmp_path: Path, tiny_model: Path) -> None:
    sizes = {
        kind: export(str(tiny_model), tmp_path / kind, engine="torch", precision=kind) for kind in ("fp32", "bf16")
    }
    weights = {kind: (tmp_path / kind / "model.safetensors").stat().st_size for kind in sizes}
    assert weights["bf16"] < 0.6 * weights["fp32"]
    assert Answerer(tmp_path / "bf16")(["Instruction: x [CONTEXT] Hi"])


def test_a_model_folder_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.run_folder import RunFolderError

    model, tokenizer = load_model(tiny_model)
    target = save_model(model, tokenizer, tmp_path / "model")
    before = (target / "model.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(RunFolderError, match="No space left"):
        save_model(model, tokenizer, tmp_path / "model")
    assert (target / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
