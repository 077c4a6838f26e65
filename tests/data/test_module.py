"""What replicates are served: their parts, in which batches; and each committed data config."""

import random
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import normdrop.study.config  # noqa: F401  the resolvers that conf/ uses
from normdrop import asked
from normdrop.data import SERVED, module, sources
from normdrop.data.module import ReplicateData, Table
from normdrop.data.rows import Rows
from normdrop.data.sources import bound
from normdrop.data.split import split, standardise
from normdrop.streams import stream

CONF = Path(__file__).parents[2] / "conf"
SPLIT_KEYS = ("fresh", "train_size", "val_fraction", "test_fraction", "pca")


@pytest.fixture(scope="module")
def rows() -> Rows:
    return sources.digits()


def made(source=sources.digits, seeds=(0, 1), batch_size=64, **arguments) -> ReplicateData:
    replicates = ReplicateData(source, seeds, batch_size, **arguments)
    replicates.setup()
    return replicates


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=list(overrides)).data


def from_config(*overrides: str, seeds=(0, 1)) -> ReplicateData:
    cfg = composed(*overrides)
    return made(bound(OmegaConf.to_container(cfg, resolve=True)), seeds, 16, **{key: cfg[key] for key in SPLIT_KEYS})


def equal(a: ReplicateData, b: ReplicateData, names=("train", "val", "test")) -> bool:
    return all(torch.equal(a.parts[n].x, b.parts[n].x) and torch.equal(a.parts[n].y, b.parts[n].y) for n in names)


# --- leakage


def test_no_value_of_validation_or_test_rows_reaches_the_training_tensors(rows):
    index = split(rows, 0)
    x = rows.x.copy()
    x[np.concatenate([index["val"], index["test"]])] += 1e3
    spoiled = Rows(x, rows.y, rows.classes)
    for pca in (None, 10):
        clean, dirty = made(seeds=[0], pca=pca), made(lambda: spoiled, seeds=[0], pca=pca)
        assert equal(clean, dirty, ["train"])
        assert not equal(clean, dirty, ["test"])


def test_principal_components_have_variance_1_and_no_correlation_in_the_training_part():
    replicates = made(pca=10)
    train = replicates.parts["train"].x[1].double()
    assert replicates.features == 10
    torch.testing.assert_close(train.T @ train / len(train), torch.eye(10).double(), atol=1e-4, rtol=0)


# --- fresh rows

MNIST1D = partial(sources.mnist1d, rows=500)


@pytest.mark.parametrize("source", [MNIST1D, partial(sources.synthetic, rows=300)])
def test_fresh_rows_differ_by_replicate_and_depend_on_its_seed_alone(source):
    pair, alone = made(source, seeds=[0, 1], fresh=True), made(source, seeds=[1], fresh=True)
    assert not torch.equal(pair.parts["train"].x[0], pair.parts["train"].x[1])
    assert torch.equal(pair.parts["train"].x[1], alone.parts["train"].x[0])


def test_global_random_state_is_neither_read_nor_written(monkeypatch):
    sources.mnist1d.cache_clear()
    sources._population.cache_clear()

    def everything(seed):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)  # noqa: NPY002
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        out = [made(MNIST1D, fresh=True), made(partial(sources.synthetic, rows=301), fresh=True), made(pca=5)]
        orders = [next(iter(replicates.train_dataloader())) for replicates in out]
        after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        assert before[0] == after[0]
        np.testing.assert_equal(before[1], after[1])
        assert torch.equal(before[2], after[2])
        return out, orders

    first, first_orders = everything(1)
    sources.mnist1d.cache_clear()
    sources._population.cache_clear()
    second, second_orders = everything(2)
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first_orders, second_orders, strict=True))


# --- batches


def test_an_epoch_gives_each_replicate_every_row_once_and_keeps_the_smaller_last_batch():
    replicates = made(batch_size=100)
    batches = list(replicates.train_dataloader())
    assert [tuple(batch.shape) for batch in batches] == [(2, 100)] * 11 + [(2, 49)]
    assert batches[0].dtype == torch.int64
    rows = replicates.parts["train"].rows
    assert torch.equal(torch.cat(batches, dim=1).sort(dim=1).values, rows.sort(dim=1).values)


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
    replicates, recorder = ReplicateData(sources.digits, [0, 1], 300), _Recorder()
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
    train = replicates.parts["train"]
    own = torch.arange(2)[:, None]
    for (x, y), rows in zip(recorder.steps, expected, strict=True):
        assert torch.equal(x, train.x[own, rows]) and torch.equal(y, train.y[own, rows])
    assert len(recorder.validations) == 1 + 3  # the sanity check, then one an epoch
    for x, y in recorder.validations:
        assert torch.equal(x, replicates.parts["val"].x) and torch.equal(y, replicates.parts["val"].y)


def _epoch(replicates: ReplicateData, epoch: int) -> list[torch.Tensor]:
    generators = [stream(seed, "order") for seed in replicates.seeds]
    order = [[g.permutation(1149) for g in generators] for _ in range(epoch + 1)][-1]
    return list(torch.from_numpy(np.stack(order)).split(replicates.batch_size, dim=1))


def test_small_rows_that_each_replicate_owns_are_what_a_shared_table_gives_bit_for_bit(monkeypatch):
    x = np.random.default_rng(0).normal(1e6, 3, (200, 5))  # float32 alone would not do
    x[::7, 2] = np.nan
    source = partial(Rows, x, np.arange(200) % 2, ("a", "b"))
    own = made(source, seeds=[0, 1, 2])
    monkeypatch.setattr(module, "OWNED", 0)
    shared = made(source, seeds=[0, 1, 2])
    assert own.parts["train"].table.scaling is None and shared.parts["train"].table.scaling is not None
    assert equal(own, shared)
    for one, other in zip(own.train_dataloader(), shared.train_dataloader(), strict=True):
        for a, b in zip(own.parts["train"].table.gather(one), shared.parts["train"].table.gather(other), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rows_gathered_by_compiled_code_are_those_of_torch_bit_for_bit(monkeypatch, kind):
    pytest.importorskip("numba")
    generator = np.random.default_rng(0)
    x = generator.normal(1e6, 3, (50, 7)).astype(kind).astype(float)
    x[3, 2], x[4, 1] = np.nan, 1e300
    scales = [(generator.normal(1e6, 1, 7), generator.uniform(1e-3, 3, 7)) for _ in range(3)]
    table = Table.of(Rows(x, np.arange(50) % 2, ("a", "b")), scales)
    rows = torch.from_numpy(generator.integers(0, 50, (12, 3))).T  # not contiguous
    compiled, _ = table.gather(rows)
    monkeypatch.setattr(module, "compiled", lambda _: None)
    plain, _ = table.gather(rows)
    assert compiled.dtype == torch.float32 and compiled.equal(plain)


@pytest.mark.parametrize("kind", [np.uint8, np.float16])
@pytest.mark.parametrize("compiled", [True, False])
def test_small_values_stay_small_until_the_batch_which_is_that_of_float64(kind, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(module, "compiled", lambda _: None)
    monkeypatch.setattr(module, "OWNED", 0)
    x = np.random.default_rng(0).integers(0, 256, (90, 12)) / (1 if kind is np.uint8 else 8)
    if kind is np.float16:
        x[3, 4] = np.nan
    sources = [partial(Rows, x.astype(of), np.arange(90) % 2, ("a", "b")) for of in (kind, float)]
    small, plain = (made(source, batch_size=16) for source in sources)
    assert small.parts["train"].table.x.dtype == torch.from_numpy(np.zeros(1, kind)).dtype
    assert small.source().fingerprint == plain.source().fingerprint
    assert equal(small, plain)
    index = split(plain.source(), 1)
    for name, expected in standardise({name: x[rows] for name, rows in index.items()}).items():
        assert torch.equal(small.parts[name].x[1], torch.from_numpy(expected.astype(np.float32)))


def test_iterating_outside_a_trainer_shifts_nothing_that_a_trainer_draws():
    replicates, untouched = made(), made()
    for _ in range(2):
        list(replicates.train_dataloader())
    assert all(torch.equal(a, b) for a, b in zip(replicates.order, untouched.order, strict=True))


def test_overfit_batches_are_the_same_in_each_epoch(tmp_path):
    replicates, recorder = ReplicateData(sources.digits, [0, 1], 300), _Recorder()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    lightning.Trainer(max_epochs=3, overfit_batches=2, **quiet).fit(recorder, replicates)
    first, second = ([x for x, _ in recorder.steps[k::2]] for k in (0, 1))
    assert len(first) == 3 and not torch.equal(first[0], second[0])
    assert all(torch.equal(x, first[0]) for x in first) and all(torch.equal(x, second[0]) for x in second)


@pytest.mark.parametrize("owned", [0, 2**21])
def test_batches_come_on_the_trainers_device_as_the_parts_do(monkeypatch, owned):
    monkeypatch.setattr(module, "OWNED", owned)
    replicates = made()
    replicates.trainer = SimpleNamespace(training=False, strategy=SimpleNamespace(root_device=torch.device("meta")))
    replicates.val_dataloader()
    part = replicates.parts["train"]
    assert part.rows.device == part.x.device == part.y.device == torch.device("meta")
    assert (replicates.parts["test"].table is part.table) == (owned == 0)


@pytest.mark.parametrize(
    ("batch_size", "batch_norm", "message"),
    [
        (1150, False, "batch_size=1150: it must be a whole number from 1 to 1149, the number of training rows"),
        (1, True, "batch_size=1: it must be a whole number from 2 to 1149"),
        (2.5, False, "batch_size=2.5"),
    ],
)
def test_batches_that_cannot_train_are_refused(batch_size, batch_norm, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        made(batch_size=batch_size, batch_norm=batch_norm)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_last_batch_of_one_row_is_left_out_another_row_each_time_whatever_the_arrangement(batch_norm):
    replicates = made(seeds=[0, 1], batch_size=14, batch_norm=batch_norm)  # of 1149 rows
    loader, train = replicates.train_dataloader(), replicates.parts["train"].rows
    left_out = []
    for _ in range(4):
        epoch = list(loader)
        assert [batch.shape[1] for batch in epoch] == [14] * 82 and len(loader) == 82
        seen = torch.cat(epoch, dim=1)
        left_out += [(set(train[k].tolist()) - set(seen[k].tolist())).pop() for k in range(2)]
    assert len(set(left_out)) == 8


def test_more_replicates_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(asked, "memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"data: it takes 0.0 GiB .*: at most 49 % of its rows"):
        made(seeds=range(30), pca=10)


# --- shapes


def test_data_shape_says_what_flat_columns_are_and_is_content(rows):
    assert made().shape == (1, 8, 8) and made(pca=5).shape == (5,)
    assert made(shape=[4, 16]).shape == (4, 16)
    assert made(sources.breast_cancer).shape == (30,)
    other = Rows(rows.x, rows.y, rows.classes, shape=(4, 4, 4))
    assert len({rows.fingerprint, other.fingerprint, Rows(rows.x, rows.y, rows.classes).fingerprint}) == 3


@pytest.mark.parametrize("shape", [[2, 3, 5], [64.0], "64", [-8, -8], []])
def test_a_shape_that_does_not_hold_the_features_is_refused(shape):
    with pytest.raises(ValueError, match=r"data.shape=.* the 64 features"):
        made(shape=shape)


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
    assert composed(f"+data={name}").name == name


def test_a_configured_table_is_named_after_its_file(tmp_path):
    path = tmp_path / "my table.csv"
    pd.DataFrame({"a": range(60), "id": "x", "label": ["yes", "no"] * 30}).to_csv(path, index=False)
    overrides = ["+data=table", f"data.path='{path}'", "data.target=label", "data.drop=[id]"]
    assert composed(*overrides).name == "my_table"
    packed = [composed("+data=table", f"data.path='my table.csv.{ending}'").name for ending in ("gz", "bz2", "xz")]
    assert packed == ["my_table"] * 3
    assert from_config(*overrides).features == 1


def test_data_of_openml_and_keel_are_named_after_themselves():
    assert composed("+data=openml", "data.dataset=credit-g").name == "credit-g"
    assert composed("+data=keel", "data.dataset=iris").name == "iris"
    assert from_config("+data=keel", "data.dataset=iris").features == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+data=digits", "data.test_fraction=0"], "data.test_fraction=0: it must be a number between 0 and 1"),
        (["+data=digits", "data.val_fraction=lots"], "data.val_fraction='lots'"),
        (["+data=digits", "data.train_size=0"], "data.train_size=0: it must be a whole number, 1 or more"),
        (["+data=digits", "data.train_size=5"], "data: class"),
        (
            ["+data=digits", "data.train_size=1145"],
            "data.train_size=1145: only 1149 rows are left beside val and test; take at most 1139",
        ),
        (["+data=digits", "data.pca=65"], "data.pca=65: it must be a whole number from 1 to 64"),
        (["+data=digits", "data.fresh=true"], "data.fresh=true: these rows are given"),
        (["+data=synthetic", "data.rows=many"], "data.rows='many'"),
        (["+data=synthetic", "data.classes=1"], "data.classes=1: it must be a whole number, 2 or more"),
        (["+data=synthetic", "data.informative=2"], "data=synthetic: n_classes(4) * n_clusters_per_class(2) must be"),
        (["+data=synthetic", "data.features=1000000000"], "data=synthetic: "),
    ],
)
def test_a_bad_value_ends_in_one_clear_line(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_config(*overrides)
    assert str(caught.value).count("\n") == 0


# --- resident rows


def drawn_rows(x: np.ndarray) -> Rows:
    return Rows(x, np.arange(len(x)) % 2, ("a", "b"))


def held(data: ReplicateData) -> int:
    """Bytes of the resident rows, and of what tells each seed's apart."""
    tables = {part.table for part in data.parts.values()}
    scales = sum(table.scaling.nbytes for table in tables if table.scaling is not None)
    numbers = sum(part.rows.nbytes for part in data.parts.values())
    return sum(table.x.nbytes + table.y.nbytes for table in tables) + scales + numbers


def test_rows_are_resident_once_whatever_the_number_of_replicates():
    rows = drawn_rows(np.random.default_rng(0).integers(0, 256, (2000, 784)).astype(np.uint8))
    of_rows = rows.x.size
    few, many = (made(lambda: rows, seeds=range(count)) for count in (1, 32))
    assert many.parts["train"].table is many.parts["test"].table
    assert of_rows < held(few) < held(many) < 2 * of_rows
    fresh = made(partial(sources.synthetic, rows=300), seeds=range(4), fresh=True)
    assert held(fresh) >= 4 * 4 * 300 * 20


@pytest.mark.parametrize(("unit", "zero"), [(1.0, 0.0), (1.0, 1e6), (1e-3, 1.7e9), (1e200, 0.0), (1e-200, 0.0)])
def test_a_row_is_seen_as_float64_standardises_it_in_whatever_unit_and_however_far_from_0(unit, zero):
    plain = np.random.default_rng(0).normal(size=(400, 5))
    plain[::7, 2] = np.nan
    replicates = made(lambda: drawn_rows(unit * plain + zero), seeds=[3, 4])
    for replicate, seed in enumerate((3, 4)):
        index = split(drawn_rows(plain), seed)
        train = plain[index["train"]]
        mean, scale = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        for name, part in replicates.parts.items():
            expected = np.nan_to_num((plain[index[name]] - mean) / scale)
            lost = np.finfo(float).eps * abs(zero) / unit  # what float64 itself cannot hold of the values
            assert part.x[replicate].numpy() == pytest.approx(expected, abs=2e-6 + 2 * lost)


def test_every_data_config_has_the_data_modules_own_keys():
    assert {*OmegaConf.load(CONF / "data" / "_split.yaml")} == {*SERVED}
