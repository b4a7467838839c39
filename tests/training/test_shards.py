"""Rows made beforehand: the same as drawn ones, whole or not there, in batches without padding where all are equal."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.utils.flop_counter import FlopCounterMode

from training.batches import Batch, BatchShape, Drawn, Position, Share, collate, to_rows
from training.data import DataError
from training.flops import training_flops
from training.losses import answer_objective, predict
from training.mixtures import Material, RecipeError, build_mixture
from training.model import new_model
from training.prefetch import ahead
from training.pretrain import pretrain
from training.run_folder import RunFolderError
from training.shards import Stored, count_pools, make_shards, prepare, row_maker, shard_folder
from training.spans import corrupt_tokens, lengths
from training.tokenizer import CONTROL_TOKENS, END, SENTINELS

SHAPE = BatchShape(tokens=600, prompt=200, target=60, pool=24)
MIXTURE: dict[str, Any] = {
    "mixture": [
        {"exercise": "find", "weight": 1, "sentences": 3, "words": 40},
        {"exercise": "records", "file": "train.jsonl", "weight": 2, "words": 40, "unanswerable": 0.2},
    ]
}


@pytest.fixture
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


@pytest.fixture
def material(data: Path) -> Material:
    return Material(data, [data / "text.txt"])


def rows_of(batch: Batch) -> Counter[tuple[Any, ...]]:
    """Return what a batch holds, row by row, padding left out, and how often."""
    return Counter(
        (
            tuple(prompt[: int(attended.sum())].tolist()),
            tuple(labels[labels >= 0].tolist()),
            tuple(offered.nonzero().flatten().tolist()),
            tuple(chosen.nonzero().flatten().tolist()),
        )
        for prompt, attended, labels, offered, chosen in zip(
            batch.prompts, batch.attention, batch.labels, batch.offered, batch.chosen, strict=True
        )
    )


def test_stored_rows_are_those_that_drawing_gives(tmp_path: Path, tokenizer: Tokenizer, material: Material) -> None:
    make_shards(row_maker(MIXTURE, material, tokenizer, SHAPE, 5), tmp_path, 2, processes=2, made_of={"seed": 5})
    sources = (
        Stored(tmp_path, SHAPE, 5, Share()),
        Drawn(build_mixture(MIXTURE["mixture"], material), tokenizer, SHAPE, 5),
    )
    pools = []
    for source in sources:
        found: list[Counter[tuple[Any, ...]]] = [Counter(), Counter()]
        pool = 0
        for (batch,), following in source.batches(Position()):
            found[pool] += rows_of(batch)
            pool = following.pool
            if pool == 2:
                break
        pools.append(found)
    assert pools[0] == pools[1]


def test_a_stored_batch_is_what_collate_makes_of_its_rows(
    tmp_path: Path, tokenizer: Tokenizer, material: Material
) -> None:
    make_rows = row_maker(MIXTURE, material, tokenizer, SHAPE, 5)
    make_shards(make_rows, tmp_path, 1, processes=1, made_of={})
    rows = {(tuple(row.prompt), tuple(row.target)): row for row in make_rows(0)}
    batches = Stored(tmp_path, SHAPE, 5, Share()).batches(Position())
    for _ in range(5):
        (stored,), _ = next(batches)
        held = [rows[prompt, target] for prompt, target, _, _ in rows_of(stored).elements()]
        made = collate(held)
        assert rows_of(stored) == rows_of(made)
        for name in ("tokens", "targets", "choice_targets", "prompt_pairs", "target_pairs"):
            assert getattr(stored, name) == getattr(made, name)


def test_a_position_says_which_batch_comes_next(tmp_path: Path, tokenizer: Tokenizer, material: Material) -> None:
    make_shards(row_maker(MIXTURE, material, tokenizer, SHAPE, 5), tmp_path, 2, processes=1, made_of={})
    source = Stored(tmp_path, SHAPE, 5, Share())
    steps = source.batches(Position())
    seen = [next(steps) for _ in range(40)]  # more than two pools: round again, in another order
    for number in (0, 7, 20, 38):
        (again,), _ = next(source.batches(seen[number][1]))
        assert torch.equal(again.prompts, seen[number + 1][0][0].prompts)
        assert torch.equal(again.labels, seen[number + 1][0][0].labels)
    assert seen[-1][1].pool >= 2


def test_processes_share_each_stored_step(tmp_path: Path, tokenizer: Tokenizer, material: Material) -> None:
    make_shards(row_maker(MIXTURE, material, tokenizer, SHAPE, 5), tmp_path, 1, processes=1, made_of={})
    (whole,), _ = next(Stored(tmp_path, SHAPE, 5, Share()).batches(Position()))
    parts = [next(Stored(tmp_path, SHAPE, 5, Share(rank, 2)).batches(Position()))[0][0] for rank in range(2)]
    assert rows_of(parts[0]) + rows_of(parts[1]) == rows_of(whole)
    assert sum(part.targets for part in parts) == whole.targets
    assert sum(part.choice_targets for part in parts) == pytest.approx(whole.targets)
    many = next(Stored(tmp_path, SHAPE, 5, Share(99, 100)).batches(Position()))[0][0]
    assert many.targets == many.choice_targets == 0  # a process without a row adds nothing


def test_a_pool_cut_short_is_made_again_and_others_are_kept(
    tmp_path: Path, tokenizer: Tokenizer, material: Material
) -> None:
    make_rows = row_maker(MIXTURE, material, tokenizer, SHAPE, 5)
    make_shards(make_rows, tmp_path, 3, processes=2, made_of={"seed": 5})
    tables = sorted(tmp_path.glob("*.rows.npy"))
    before = tables[1].read_bytes()
    tables[1].unlink()
    kept = tables[2].stat().st_mtime_ns
    assert count_pools(tmp_path) == 1
    make_shards(make_rows, tmp_path, 3, processes=2, made_of={"seed": 5})
    assert tables[1].read_bytes() == before
    assert tables[2].stat().st_mtime_ns == kept


def test_rows_of_something_else_are_refused_and_missing_ones_named(tmp_path: Path) -> None:
    make_shards(lambda _: [], tmp_path / "made", 0, processes=1, made_of={"seed": 5})
    with pytest.raises(RunFolderError, match="begun with seed 5, not 6"):
        make_shards(lambda _: [], tmp_path / "made", 0, processes=1, made_of={"seed": 6})
    with pytest.raises(RunFolderError, match=r"holds no rows; make them first: python -m training\.shards"):
        next(Stored(tmp_path, SHAPE, 5, Share()).batches(Position()))


def test_a_stage_whose_rows_are_all_too_long_is_named(tmp_path: Path, tokenizer: Tokenizer, material: Material) -> None:
    shape = BatchShape(prompt=5, target=60, pool=4)
    make_rows = row_maker(MIXTURE | {"name": "answer"}, material, tokenizer, shape, 5)
    with pytest.raises(DataError, match="answer: none of the 4 examples drawn is short enough; a prompt may have 5"):
        make_shards(make_rows, tmp_path, 1, processes=1, made_of={})
    assert count_pools(tmp_path) == 0


def test_spans_put_back_give_the_text_and_every_row_is_equally_long() -> None:
    rng = np.random.default_rng(0)
    first, end = CONTROL_TOKENS.index(SENTINELS[0]), CONTROL_TOKENS.index(END)
    for tokens in (8, 60, 568):
        text = rng.integers(300, 600, (40, tokens))
        prompts, targets = corrupt_tokens(text, rng)
        assert (prompts.shape[1], targets.shape[1]) == lengths(tokens)
        assert (prompts[:, -1] == end).all()
        assert (targets[:, -1] == end).all()
        for row, prompt, target in zip(text.tolist(), prompts.tolist(), targets.tolist(), strict=True):
            spans: list[list[int]] = []
            for token in target[:-1]:
                if first <= token < first + len(SENTINELS):
                    assert token == first + len(spans)
                    spans.append([])
                else:
                    spans[-1].append(token)
            whole = [
                each
                for token in prompt[:-1]
                for each in (spans[token - first] if first <= token < first + len(SENTINELS) else [token])
            ]
            assert whole == row
    assert lengths(568) == (512, 114)
    one, other = (corrupt_tokens(text, np.random.default_rng(seed))[0] for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_too_long_rows_of_spans_are_refused() -> None:
    with pytest.raises(ValueError, match="use 8 to 640"):
        lengths(700)


def test_rows_of_spans_need_no_mask(tmp_path: Path, tokenizer: Tokenizer, material: Material) -> None:
    make_shards(
        row_maker({"spans": {"tokens": 60}}, material, tokenizer, SHAPE, 5), tmp_path, 1, processes=1, made_of={}
    )
    (batch,), _ = next(Stored(tmp_path, SHAPE, 5, Share()).batches(Position()))
    assert not batch.padded
    assert (batch.prompts.shape[1], batch.labels.shape[1]) == lengths(60)
    model = new_model(tokenizer, seed=0, d_model=32, d_kv=8, d_ff=32, num_layers=4, num_decoder_layers=2, num_heads=7)
    masked = model(
        input_ids=batch.prompts,
        attention_mask=batch.attention,
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(batch.labels),
    )
    torch.testing.assert_close(predict(model, batch).logits, masked.logits, atol=1e-4, rtol=1e-4)
    assert int(answer_objective(0.5)(model, batch).counts["choice_accuracy"][1]) == 0


def test_a_stage_may_mix_spans_into_its_rows(tokenizer: Tokenizer, material: Material) -> None:
    stage = MIXTURE | {"name": "read", "spans": {"tokens": 60, "share": 0.25}}
    rows, drawn = (row_maker(made, material, tokenizer, SHAPE, 5)(0) for made in (stage, MIXTURE))
    of_text = [row for row in rows if (len(row.prompt), len(row.target)) == lengths(60) and not row.offered]
    assert len(of_text) == SHAPE.pool // 4
    assert rows[len(of_text) :] == drawn[: len(rows) - len(of_text)]
    with pytest.raises(RecipeError, match="read: spans need a share from 0 to 1, and a mixture beside them below 1"):
        row_maker(stage | {"spans": {"tokens": 60, "share": 1.5}}, material, tokenizer, SHAPE, 5)
    with pytest.raises(RecipeError, match="a mixture beside them"):
        row_maker({"name": "read", "spans": {"tokens": 60, "share": 0.5}}, material, tokenizer, SHAPE, 5)


def test_flops_are_those_that_torch_counts(tokenizer: Tokenizer, material: Material) -> None:
    pairs = [build_mixture(MIXTURE["mixture"], material)(random.Random(1))] * 3  # equally long: torch counts padding
    batch = collate(to_rows(pairs, tokenizer, SHAPE))
    model = new_model(
        tokenizer, seed=0, circuits=False, d_model=64, d_kv=16, d_ff=96, num_layers=5, num_decoder_layers=2, num_heads=6
    ).to("meta")
    model.config._attn_implementation = "eager"  # its products are all seen by the counter
    with FlopCounterMode(display=False) as counter:
        predict(model, batch.to(torch.device("meta"))).logits.sum().backward()
    assert training_flops(model.config, batch) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_batches_made_ahead_are_the_same_and_what_fails_there_is_raised_here(
    tmp_path: Path, tokenizer: Tokenizer, material: Material
) -> None:
    make_shards(row_maker(MIXTURE, material, tokenizer, SHAPE, 5), tmp_path, 1, processes=1, made_of={})
    source = Stored(tmp_path, SHAPE, 5, Share())
    plain, made = source.batches(Position()), ahead(source.batches(Position()), torch.device("cpu"))
    for _ in range(20):
        (one,), position = next(plain)
        (other,), same = next(made)
        assert torch.equal(one.prompts, other.prompts)
        assert position == same
    made.close()
    with pytest.raises(RunFolderError, match="holds no rows"):
        next(ahead(Stored(tmp_path / "none", SHAPE, 5, Share()).batches(Position()), torch.device("cpu")))


def test_a_recipe_with_rows_trains_on_them_by_the_clock(
    tmp_path: Path, data: Path, recipe: dict[str, Any], tokenizer: Tokenizer, tiny_model: Path
) -> None:
    first, second = recipe["stages"]
    first |= {"name": "spans", "rows": 40, "spans": {"tokens": 60}}
    del first["mixture"]
    second["rows"] = 40
    for stage in (first, second):
        stage["plan"] = {"learning_rate": 0.003, "warmup": 2, "minutes": 30, "log_every": 1, "save_seconds": 1}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    prepare(recipe, tokenizer, Material(data, [data / "text.txt"]), folder, processes=2)
    assert count_pools(shard_folder(folder, 2, second)) == 2
    model = pretrain(recipe, data=data, text=[], folder=folder, minutes=2 / 60, peak_tflops=0.1)
    assert (model / "model.safetensors").is_file()
    for name in ("1-spans", "2-answer"):
        rows = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        assert all(row["peak_share"] > 0 and 0 <= row["waiting"] <= 1 for row in rows)
        assert rows[-1]["learning_rate"] < 0.003
