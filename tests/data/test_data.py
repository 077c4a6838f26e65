"""What a replicate's rows are made of, and what is refused before training."""

import pickle
import random
import re
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import lightning
import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from normdrop import data
from normdrop.data import ReplicateData, Rows, check_batches, check_name, project, split, standardise
from normdrop.replicates import stream

CONF = Path(__file__).parents[1] / "conf"
SPLIT_KEYS = ("fresh", "train_size", "val_fraction", "test_fraction", "pca")


@pytest.fixture(scope="module")
def rows() -> Rows:
    return data.digits()


def made(source=data.digits, seeds=(0, 1), batch_size=64, **arguments) -> ReplicateData:
    replicates = ReplicateData(source, seeds, batch_size, **arguments)
    replicates.setup()
    return replicates


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=list(overrides)).data


def from_config(*overrides: str, seeds=(0, 1)) -> ReplicateData:
    cfg = composed(*overrides)
    return made(instantiate(cfg.source), seeds, 16, **{key: cfg[key] for key in SPLIT_KEYS})


def equal(a: ReplicateData, b: ReplicateData, names=("train", "val", "test")) -> bool:
    return all(torch.equal(a.parts[n].x, b.parts[n].x) and torch.equal(a.parts[n].y, b.parts[n].y) for n in names)


# --- splits


def test_every_row_lands_in_exactly_one_part(rows):
    index = split(rows, 3)
    assert sorted(np.concatenate(list(index.values()))) == list(range(len(rows.y)))


def test_each_part_has_the_classes_in_the_data_sets_proportions(rows):
    share = np.bincount(rows.y) / len(rows.y)
    for part in split(rows, 0, train_size=400).values():
        assert np.abs(np.bincount(rows.y[part]) - share * len(part)).max() <= 1


def test_sizes_are_those_of_the_fractions_and_the_same_for_all_seeds(rows):
    for seed in range(5):
        assert {n: len(i) for n, i in split(rows, seed).items()} == {"train": 1149, "val": 288, "test": 360}


def test_another_seed_gives_another_split(rows):
    assert set(split(rows, 0)["test"]) != set(split(rows, 1)["test"])


def test_train_size_thins_out_the_training_part_alone(rows):
    whole, thin = split(rows, 5), split(rows, 5, train_size=400)
    assert len(thin["train"]) == 400
    assert set(thin["train"]) < set(whole["train"])
    assert all(np.array_equal(whole[part], thin[part]) for part in ("val", "test"))


def test_same_seed_gives_the_same_parts_whatever_replicates_stand_beside_it_and_whatever_rerun():
    alone, among = made(seeds=[7]), made(seeds=[3, 9, 7], rerun=1)
    for name, part in alone.parts.items():
        assert torch.equal(part.x[0], among.parts[name].x[2])
        assert torch.equal(part.y[0], among.parts[name].y[2])


def test_the_official_test_part_of_mnist1d_stays_untouched():
    rows = data.mnist1d()
    assert rows.x.shape == (5000, 40)
    for seed in range(3):
        index = split(rows, seed)
        assert index["test"].tolist() == list(range(4000, 5000))
        assert {n: len(i) for n, i in index.items()} == {"train": 3200, "val": 800, "test": 1000}


def test_mnist1d_is_what_its_package_makes():
    from mnist1d.data import get_dataset_args, make_dataset

    state = np.random.get_state()  # noqa: NPY002
    official = make_dataset(get_dataset_args())
    np.random.set_state(state)  # noqa: NPY002
    rows = data.mnist1d()
    np.testing.assert_array_equal(rows.x[rows.test], official["x_test"].astype(np.float32))
    np.testing.assert_array_equal(rows.y[~rows.test], official["y"])


# --- leakage


def test_no_value_of_validation_or_test_rows_reaches_the_training_tensors(rows):
    index = split(rows, 0)
    x = rows.x.copy()
    x[np.concatenate([index["val"], index["test"]])] = 1e3
    spoiled = Rows(x, rows.y, rows.classes)
    for pca in (None, 10):
        clean, dirty = made(seeds=[0], pca=pca), made(lambda: spoiled, seeds=[0], pca=pca)
        assert equal(clean, dirty, ["train"])
        assert not equal(clean, dirty, ["test"])


def test_training_features_have_mean_0_and_standard_deviation_1_unless_constant(rows):
    train = made().parts["train"].x.double()
    std = train.std(dim=1, correction=0)
    constant = std < 0.5
    assert 0 < constant.sum() < 20  # digits has constant pixels
    assert train.mean(dim=1).abs().max() < 1e-6
    assert (std[~constant] - 1).abs().max() < 1e-5


def test_a_feature_that_hardly_varies_is_only_centred():
    train = np.array([[0.0, 5.0], [1.0, 5.0 + 1e-4]])
    out = standardise({"train": train, "test": np.array([[0.0, 7.0]])})
    assert out["test"][0] == pytest.approx([-1.0, 1.99995])


def test_missing_values_become_the_training_mean():
    parts = {"train": np.array([[0.0], [np.nan], [4.0]]), "val": np.array([[np.nan], [4.0]])}
    out = standardise(parts)
    assert out["train"][:, 0] == pytest.approx([-1, 0, 1])
    assert out["val"][:, 0] == pytest.approx([0, 1])


def test_a_feature_never_seen_in_training_is_0_in_all_parts():
    train = np.array([[0.0, np.nan], [1.0, np.nan]])
    out = standardise({"train": train, "test": np.array([[0.0, 9.0]])})
    assert out["test"][0] == pytest.approx([-1, 0])


def test_principal_components_have_variance_1_and_no_correlation_in_the_training_part():
    replicates = made(pca=10)
    train = replicates.parts["train"].x[1].double()
    assert replicates.features == 10
    torch.testing.assert_close(train.T @ train / len(train), torch.eye(10).double(), atol=1e-4, rtol=0)


def test_one_principal_component_of_a_line_is_the_line():
    line = np.linspace(-1, 1, 9)[:, None] * [3.0, 4.0]
    out = project(standardise({"train": line}), 1)["train"][:, 0]
    assert abs(np.corrcoef(out, line[:, 0])[0, 1]) == pytest.approx(1)


# --- fresh rows


@pytest.mark.parametrize("source", [data.mnist1d, partial(data.synthetic, rows=300)])
def test_fresh_rows_differ_by_replicate_and_depend_on_its_seed_alone(source):
    pair, alone = made(source, seeds=[0, 1], fresh=True), made(source, seeds=[1], fresh=True)
    assert not torch.equal(pair.parts["train"].x[0], pair.parts["train"].x[1])
    assert torch.equal(pair.parts["train"].x[1], alone.parts["train"].x[0])


def test_fresh_synthetic_rows_are_of_one_problem():
    source = partial(data.synthetic, rows=2000, separation=3.0)
    a, b, other = source(seed=0), source(seed=1), source(seed=1, problem=1)
    means = [[r.x[r.y == c].mean(axis=0) for c in range(4)] for r in (a, b, other)]
    same, different = np.abs(np.subtract(*means[:2])).max(), np.abs(np.subtract(means[0], means[2])).max()
    assert same < 1 < different


def test_label_noise_hides_the_classes():
    def spread(label_noise: float) -> float:
        rows = data.synthetic(label_noise=label_noise)
        return np.std([rows.x[rows.y == c].mean(axis=0) for c in range(4)], axis=0).max()

    assert spread(0.0) > spread(0.5) > 3 * spread(1.0)


def test_global_random_state_is_neither_read_nor_written(monkeypatch):
    data.mnist1d.cache_clear()
    data._population.cache_clear()

    def everything(seed):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)  # noqa: NPY002
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        out = [made(data.mnist1d, fresh=True), made(partial(data.synthetic, rows=301), fresh=True), made(pca=5)]
        orders = [next(iter(replicates.train_dataloader())) for replicates in out]
        after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        assert before[0] == after[0]
        np.testing.assert_equal(before[1], after[1])
        assert torch.equal(before[2], after[2])
        return out, orders

    first, first_orders = everything(1)
    data.mnist1d.cache_clear()
    data._population.cache_clear()
    second, second_orders = everything(2)
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first_orders, second_orders, strict=True))


# --- batches


def test_an_epoch_gives_each_replicate_every_row_once_and_keeps_the_smaller_last_batch():
    batches = list(made(batch_size=100).train_dataloader())
    assert [tuple(batch.shape) for batch in batches] == [(2, 100)] * 11 + [(2, 49)]
    assert batches[0].dtype == torch.int64
    assert torch.equal(torch.cat(batches, dim=1).sort(dim=1).values, torch.arange(1149).expand(2, -1))


def test_epochs_go_on_with_each_replicates_own_stream():
    loader = made(seeds=[4, 2]).train_dataloader()
    first, second = (torch.cat(list(loader), dim=1) for _ in range(2))
    for replicate, seed in enumerate([4, 2]):
        generator = stream(seed, "order")
        assert first[replicate].tolist() == generator.permutation(1149).tolist()
        assert second[replicate].tolist() == generator.permutation(1149).tolist()


def test_rerun_changes_the_order_and_nothing_else():
    a, b = made(), made(rerun=1)
    assert equal(a, b)
    assert not torch.equal(next(iter(a.train_dataloader())), next(iter(b.train_dataloader())))


def test_an_iterator_that_is_not_asked_draws_nothing():
    a, b = made().train_dataloader(), made().train_dataloader()
    iter(a)
    assert torch.equal(next(iter(a)), next(iter(b)))


class _Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.steps, self.validations = torch.nn.Parameter(torch.zeros(1)), [], []

    def training_step(self, batch, _):
        self.steps.append(batch)
        return (self.weight * 1).sum()

    def validation_step(self, batch, _):
        self.validations.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("reload", [0, 1])
def test_in_a_lightning_fit_every_epoch_takes_the_next_permutation(reload, tmp_path):
    replicates, recorder = ReplicateData(data.digits, [0, 1], 300), _Recorder()
    lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=reload,
        default_root_dir=tmp_path,
    ).fit(recorder, replicates)
    expected = [batch for epoch in range(3) for batch in _epoch(replicates, epoch)]
    assert len(recorder.steps) == len(expected) == 12
    assert all(torch.equal(a, b) for a, b in zip(recorder.steps, expected, strict=True))
    assert len(recorder.validations) == 1 + 3  # the sanity check, then one an epoch


def _epoch(replicates: ReplicateData, epoch: int) -> list[torch.Tensor]:
    generators = [stream(seed, "order") for seed in replicates.seeds]
    order = [[g.permutation(1149) for g in generators] for _ in range(epoch + 1)][-1]
    return list(torch.from_numpy(np.stack(order)).split(replicates.batch_size, dim=1))


def test_batches_come_on_the_trainers_device_as_the_parts_do():
    replicates = made()
    replicates.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    part = replicates.parts["train"].to("meta")
    assert next(iter(replicates.train_dataloader())).device == part.x.device == part.y.device


@pytest.mark.parametrize(
    ("rows_", "batch_size", "batch_norm", "message"),
    [
        (100, 101, False, "batch_size=101: there are only 100 training rows"),
        (101, 50, True, "batch of one row"),
        (100, 1, True, "batch of one row"),
        (100, 0, False, "batch_size=0"),
        (100, 2.5, False, "batch_size=2.5"),
    ],
)
def test_batches_that_cannot_train_are_refused(rows_, batch_size, batch_norm, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_batches(rows_, batch_size, batch_norm)


def test_a_last_batch_of_one_row_is_fine_without_batch_norm():
    check_batches(101, 50, batch_norm=False)
    check_batches(101, 51, batch_norm=True)


# --- the user's own tables


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.integers(0, 9, 60), "c": rng.random(60) > 0.5})
    frame["label"] = np.where(frame.a + frame.b > 4, "yes", "no")
    return frame


def test_csv_parquet_and_npz_give_the_same_tensors(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", **{name: frame[name].to_numpy(str if name == "label" else None) for name in frame})
    np.savez(tmp_path / "block.npz", x=frame[["a", "b", "c"]].to_numpy(float), label=frame.label.to_numpy(str))
    csv, *others = (
        made(partial(data.table, str(tmp_path / name), "label"), batch_size=8)
        for name in ("t.csv", "t.parquet", "t.npz", "block.npz")
    )
    assert csv.parts["train"].x.shape == (2, 38, 3)
    assert all(equal(csv, other) for other in others)


def test_classes_are_numbered_in_sorted_order(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = data.table(str(tmp_path / "t.csv"), "label")
    assert rows.classes == ("no", "yes")
    assert rows.y.tolist() == (frame.label == "yes").astype(int).tolist()


def test_integer_classes_may_start_anywhere_and_have_gaps(frame, tmp_path):
    frame.assign(label=frame.label.map({"no": -1, "yes": 10})).to_csv(tmp_path / "t.csv", index=False)
    rows = data.table(str(tmp_path / "t.csv"), "label")
    assert rows.classes == ("-1", "10")
    assert set(rows.y) == {0, 1}


def test_categorical_columns_become_one_hot_and_dropped_ones_are_gone(frame, tmp_path):
    frame["colour"] = ["red", "green", "blue"] * 20
    frame["id"] = [f"row {i}" for i in range(60)]
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = data.table(str(tmp_path / "t.csv"), "label", categorical=["colour"], drop=["id", "c"])
    assert rows.x.shape == (60, 5)
    np.testing.assert_array_equal(rows.x[:3, 2:], [[0, 0, 1], [0, 1, 0], [1, 0, 0]])  # blue, green, red


def test_imputed_values_take_the_mean_of_the_training_rows(frame, tmp_path):
    frame.loc[::7, "a"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    source = partial(data.table, str(tmp_path / "t.csv"), "label", impute=True)
    index = split(source(), 0)
    for name, part in made(source, seeds=[0], batch_size=8).parts.items():
        holes = np.isnan(source().x[index[name], 0])
        assert holes.any()
        assert part.x[0, holes, 0].abs().max() == 0


def test_a_constant_column_is_0(frame, tmp_path):
    frame.assign(c=3).to_csv(tmp_path / "t.csv", index=False)
    replicates = made(partial(data.table, str(tmp_path / "t.csv"), "label"), batch_size=8)
    assert replicates.parts["test"].x[:, :, 2].abs().max() == 0


def test_columns_may_be_named_by_numbers(tmp_path):
    np.savetxt(tmp_path / "t.csv", [[i, i % 3, i % 2] for i in range(30)], delimiter=",", header="0,1,2", comments="")
    assert (
        from_config("+data=table", f"data.path='{tmp_path / 't.csv'}'", "data.target=2", "data.drop=[0]").features == 1
    )


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_an_npz_is_refused_and_never_run(tmp_path):
    bait = tmp_path / "touched"
    np.savez(tmp_path / "t.npz", x=np.array([_Bomb(bait)] * 9, dtype=object), label=np.arange(9) % 2)
    with pytest.raises(ValueError, match=r"array 'x'.*pickled objects are never loaded"):
        data.table(str(tmp_path / "t.npz"), "label")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(_Bomb(bait)))
    with pytest.raises(ValueError, match="not an NPZ archive"):
        data.table(str(tmp_path / "bare.npz"), "label")
    assert not bait.exists()
    np.load(tmp_path / "t.npz", allow_pickle=True)["x"]
    assert bait.exists()  # the bait works


LINES = [f"{i},{i * i % 7},{'no' if i % 2 else 'yes'}" for i in range(30)]


def csv(*lines: str, header: str = "a,b,label") -> bytes:
    return "\n".join([header, *lines]).encode()


def npz(**arrays) -> bytes:
    import io

    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def other_zip() -> bytes:
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("label", "text")
    return file.getvalue()


GOOD = csv(*LINES)
BAD_FILES = {
    "missing file": ("t.csv", None, {}, "no such file"),
    "a folder": (".", None, {}, "not a file"),
    "no path": (None, None, {}, "data.path is not given"),
    "another suffix": ("t.pkl", GOOD, {}, "must end in one of .csv, .parquet, .npz"),
    "empty csv": ("t.csv", b"", {}, "the file is empty"),
    "blank csv": ("t.csv", b"\n\n", {}, "cannot be read: No columns"),
    "header only": ("t.csv", csv(), {}, "the table has no rows"),
    "latin-1 csv": ("t.csv", GOOD + "\n1,2,caf\xe9".encode("latin-1"), {}, "not UTF-8 (byte 0xe9 at position"),
    "binary csv": ("t.csv", bytes(range(256)) * 9, {}, "data.path="),
    "longer rows than the header": ("t.csv", csv("1,2,yes,4", *LINES), {}, "cannot be read"),
    "one longer row": ("t.csv", csv(*LINES, "1,2,yes,4"), {}, "cannot be read: Error tokenizing data"),
    "empty parquet": ("t.parquet", b"", {}, "the file is empty"),
    "damaged parquet": ("t.parquet", b"PAR1 nothing of the sort", {}, "cannot be read"),
    "not a zip": ("t.npz", GOOD, {}, "not an NPZ archive"),
    "cut npz": ("t.npz", npz(x=np.zeros((9, 2)))[:-40], {}, "not an NPZ archive"),
    "a zip without arrays": ("t.npz", other_zip(), {}, "'label' is not an array"),
    "arrays of different length": ("t.npz", npz(x=np.zeros(9), label=np.arange(8) % 2), {}, "x has 9, label has 8"),
    "complex numbers": ("t.npz", npz(x=np.zeros(9, complex), label=np.arange(9) % 2), {}, "'x' is not an array"),
    "a scalar": ("t.npz", npz(x=np.float32(3), label=np.arange(9) % 2), {}, "'x' is not an array"),
    "no target": ("t.csv", GOOD, {"target": None}, "data.target is not given"),
    "absent target": ("t.csv", GOOD, {"target": "labels"}, "did you mean 'label'?"),
    "absent target, nothing near": ("t.csv", GOOD, {"target": "zzz"}, "no such column; it has: a, b, label"),
    "absent column to drop": ("t.csv", GOOD, {"drop": ["ident"]}, "data.drop='ident': the table has no such column"),
    "absent categorical column": ("t.csv", GOOD, {"categorical": ["q"]}, "data.categorical='q'"),
    "a name where a list is due": ("t.csv", GOOD, {"drop": "a"}, "data.drop='a': it must be a list of columns"),
    "impute neither true nor false": ("t.csv", GOOD, {"impute": "yes"}, "data.impute='yes': it must be true or false"),
    "the target dropped": ("t.csv", GOOD, {"drop": ["label"]}, "this column is the target"),
    "nothing but the target": ("t.csv", GOOD, {"drop": ["a", "b"]}, "no feature is left"),
    "text in a feature": ("t.csv", csv("x,1,yes", *LINES), {}, "column 'a' holds str (e.g. 'x')"),
    "an infinite feature": ("t.csv", csv("inf,1,yes", *LINES), {}, "column 'a' has infinite values"),
    "beyond float32": ("t.csv", csv("1e300,1,yes", *LINES), {}, "column 'a' has infinite values"),
    "a missing value": ("t.csv", csv(",1,yes", *LINES), {}, "column 'a' has 1 missing values; data.impute=true"),
    "a column without values": ("t.csv", csv(*(f",{line}" for line in LINES), header="e,a,b,label"), {}, "no values"),
    "a target without a value": ("t.csv", csv("1,2,", *LINES), {}, "1 rows have no value there"),
    "one class": ("t.csv", csv(*["1,2,yes", "3,4,yes"] * 9), {}, "one class only ('yes')"),
    "fractions as target": ("t.csv", csv(*(f"1,{i},{i / 7}" for i in range(30))), {}, "looks continuous"),
    "a class for each row": ("t.csv", csv(*(f"1,2,{i}" for i in range(30))), {}, "30 distinct values in 30 rows"),
    "a rare class": ("t.csv", csv("1,2,maybe", *LINES), {}, "class 'maybe' has 1 of the 31 rows"),
    "a class missing from a part": ("t.csv", csv(*["1,2,maybe"] * 2, *LINES), {}, "class 'maybe' has"),
    "constant features": ("t.csv", csv(*["1,2,yes", "1,2,no"] * 9), {}, "every feature is constant"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_table_ends_in_one_clear_line(case, tmp_path):
    name, content, arguments, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = None if name is None else str(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        made(partial(data.table, path, **{"target": "label"} | arguments), batch_size=4)
    assert str(caught.value).count("\n") == 0


def test_a_table_larger_than_memory_is_refused_before_it_is_read(frame, tmp_path, monkeypatch):
    frame.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(data, "memory", lambda: 100)
    with pytest.raises(ValueError, match="larger than this machine's memory"):
        data.table(str(tmp_path / "t.csv"), "label")


def test_more_replicates_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(data, "memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"data: 30 \* 1797 rows \* 64 features take 0.0 GiB"):
        made(seeds=range(30))


# --- OpenML, as scikit-learn would answer


def openml_answer(**columns):
    frame = pd.DataFrame(columns)
    return lambda **_: SimpleNamespace(frame=frame, target_names=["class"])


def test_openml_makes_nominal_columns_one_hot_and_keeps_missing_values_for_the_training_part(monkeypatch):
    colour = pd.Categorical(["red", None, "blue"] * 10, categories=["blue", "green", "red"])
    label = pd.Categorical(["good", "bad"] * 15)
    answer = openml_answer(size=[1.0, 2.0, np.nan] * 10, colour=colour, **{"class": label})
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", answer)
    rows = data.openml("cars")
    assert rows.classes == ("bad", "good")
    nan = np.nan
    np.testing.assert_array_equal(rows.x[:3], np.float32([[1, 0, 1], [2, nan, nan], [nan, 1, 0]]))
    parts = made(partial(data.openml, "cars"), seeds=[0], batch_size=4).parts
    assert all(torch.isfinite(part.x).all() for part in parts.values())


def test_openml_asks_by_name_or_by_number(monkeypatch):
    asked = []

    def answer(**which):
        asked.append(which)
        return openml_answer(a=range(9), **{"class": [0, 1, 2] * 3})()

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", answer)
    data.openml("iris"), data.openml(61)
    assert asked[0]["name"] == "iris"
    assert asked[1]["data_id"] == 61


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (URLError("Name or service not known"), "OpenML cannot be reached"),
        (sklearn.datasets._openml.OpenMLError("Dataset nope not found."), "Dataset nope not found."),
    ],
)
def test_openml_out_of_reach_or_without_the_data_set_ends_in_one_clear_line(monkeypatch, error, message):
    def answer(**_):
        raise error

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", answer)
    with pytest.raises(ValueError, match=message) as caught:
        data.openml("nope")
    assert str(caught.value).startswith("data.dataset='nope'")


def test_openml_without_a_data_set_says_what_to_give():
    with pytest.raises(ValueError, match=r"data\.dataset is not given"):
        data.openml(None)


# --- the committed configs


@pytest.mark.parametrize(
    ("name", "train", "features", "classes"),
    [
        ("digits", 1149, 64, 10),
        ("digits_pca10", 1149, 10, 10),
        ("breast_cancer", 364, 30, 2),
        ("mnist5k", 3200, 784, 10),
        ("mnist1d", 3200, 40, 10),
        ("synthetic", 1280, 20, 4),
        ("blog", 1280, 10, 10),
    ],
)
def test_each_data_set_is_served_as_configured(name, train, features, classes):
    replicates = from_config(f"+data={name}")
    part = replicates.parts["train"]
    assert part.x.shape == (2, train, features)
    assert part.x.dtype == torch.float32
    assert part.y.dtype == torch.int64
    assert (replicates.features, replicates.classes) == (features, classes)
    assert check_name(composed(f"+data={name}").name) == name


def test_a_configured_table_is_named_after_its_file(frame, tmp_path):
    path = tmp_path / "my table.csv"
    frame.assign(id="x").to_csv(path, index=False)
    overrides = ["+data=table", f"data.path='{path}'", "data.target=label", "data.drop=[id]"]
    assert composed(*overrides).name == "my_table"
    assert from_config(*overrides).features == 3


def test_a_config_names_an_openml_data_set_after_itself():
    cfg = composed("+data=openml", "data.dataset=credit-g")
    assert (cfg.name, instantiate(cfg.source).keywords["dataset"]) == ("credit-g", "credit-g")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+data=digits", "data.test_fraction=0"], "data.test_fraction=0: it must be a number between 0 and 1"),
        (["+data=digits", "data.val_fraction=1.0"], "data.val_fraction=1.0"),
        (["+data=digits", "data.val_fraction=lots"], "data.val_fraction='lots'"),
        (["+data=digits", "data.val_fraction=0.999"], "data: class"),
        (["+data=digits", "data.train_size=0"], "data.train_size=0: it must be a whole number, 1 or more"),
        (["+data=digits", "data.train_size=5"], "data: class"),
        (["+data=digits", "data.train_size=0.5"], "data.train_size=0.5"),
        (["+data=digits", "data.train_size=2000"], "data.train_size=2000: only 1149 rows are left"),
        (["+data=digits", "data.train_size=1145"], "data.train_size=1145: take at most 1139"),
        (["+data=digits", "data.train_size=12"], "batch_size=16: there are only 12 training rows"),
        (["+data=digits", "data.pca=65"], "data.pca=65: it must be a whole number from 1 to 64"),
        (["+data=digits", "data.fresh=often"], "data.fresh='often': it must be true or false"),
        (["+data=digits", "data.fresh=true"], "data.fresh=true: these rows are given"),
        (["+data=synthetic", "data.rows=many"], "data.rows='many'"),
        (["+data=synthetic", "data.rows=10"], "data: class"),
        (["+data=synthetic", "data.classes=1"], "data.classes=1: it must be a whole number, 2 or more"),
        (["+data=synthetic", "data.informative=30"], "data.features=20: "),
        (["+data=synthetic", "data.informative=2"], "data.informative=2: data.classes * data.clusters_per_class = 8"),
        (["+data=synthetic", "data.redundant=-1"], "data.redundant=-1"),
        (["+data=synthetic", "data.separation=0"], "data.separation=0"),
        (["+data=synthetic", "data.label_noise=1.5"], "data.label_noise=1.5: it must be a number from 0 to 1"),
        (["+data=synthetic", "data.features=1000000000"], "data=synthetic: "),
    ],
)
def test_a_bad_value_ends_in_one_clear_line(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_config(*overrides)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-flag", "sp ace", "new\nline"])
def test_a_name_that_does_not_fit_a_path_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"data.name={name!r}")):
        check_name(name)
