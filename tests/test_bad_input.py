"""Wrong configurations and files, through the real application: one clear line, exit status 1, nothing written over."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from fitting import normdrop
from normdrop import asked
from normdrop.study import app
from normdrop.training import fit

TINY = (
    *("data.train_size=60", "batch_size=30", "model.width=4", "model.depth=1", "trainer.max_epochs=1"),
    *("trainer.accelerator=cpu", "replicates=2", "hydra/launcher=basic"),
)
KEPT = ("experiment=ordering", "arrangement=none", "optimizer.lr=0.001", "name=kept")


def refused(monkeypatch, capsys, *arguments: str) -> str:
    """What the application says to this command line, where it must stop before it trains."""

    def trains(*_):
        raise AssertionError("it trained")

    monkeypatch.setattr(fit, "_fit", trains)
    said = normdrop(*TINY, *arguments)
    assert said.startswith("normdrop: ")
    assert "\n" not in said
    assert capsys.readouterr().err == ""
    return said.removeprefix("normdrop: ")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with the outputs of a finished condition, which nothing below may change."""
    folder = tmp_path_factory.mktemp("bad_input")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert normdrop(*TINY, *KEPT) == ""
    return folder


@pytest.fixture(autouse=True)
def unchanged(finished, monkeypatch):
    monkeypatch.chdir(finished)
    before = snapshot(finished / "outputs")
    yield
    assert snapshot(finished / "outputs") == before
    assert {path.name for path in finished.iterdir()} == {"outputs"}


WRONG = {
    # types and ranges
    "rate=1": "rate=1: must be less than 1",
    "rate=-0.1": "rate=-0.1: must be greater than or equal to 0",
    "rate=nan": "rate=nan: must be a finite number",
    "rate=high": "rate=high: must be a valid number",
    "rate=true": "rate=true: must be a valid number",
    "replicates=1000000000": "replicates=1000000000: must be less than or equal to 100000",
    "rerun=-1": "rerun=-1: must be greater than or equal to 0",
    "batch_size=61": "batch_size=61: it must be a whole number from 2 to 60, the number of training rows",
    "optimizer.lr=0": "optimizer.lr=0: must be greater than 0",
    "optimizer.lr=inf": "optimizer.lr=inf: must be a finite number",
    "model.width=0": "model.width=0: must be greater than or equal to 2 or a valid list",
    "model.width=[8,8]": "model.width=[8, 8]: must be model.depth=1 numbers",
    "model.depth=0": "model.depth=0: must be greater than or equal to 1",
    "trainer.val_check_interval=3": "trainer.val_check_interval=3: must come to between 1 and 2 steps, an epoch's",
    "trainer.val_check_interval=0.1": "trainer.val_check_interval=0.1: must come to between 1 and 2 steps, an epoch's",
    "trainer.val_check_interval=1.5": "must be a valid integer or less than or equal to 1",
    "trainer.accelerator=tpu": "trainer.accelerator=tpu: must be one of auto, cpu, gpu",
    "measure.shift=maybe": "measure.shift=maybe: must be",
    "measure.shift_epochs=[0]": "measure.shift_epochs=[0]: must be greater than or equal to 1",
    "measure.shift_epochs=[1,2]": "measure.shift_epochs=[1, 2]: must be epochs from 1 to trainer.max_epochs=1",
    # names
    "arrangement=bn,": "arrangement=bn,: the values of a grid are typed without blanks, arrangement=a,b,c",
    "arrangement=bn_dropuot": "dropout_bn, ln, ln_dropout, dropout_ln; did you mean bn_dropout?",
    "position=infront": "position=infront: must be one of after, before, around",
    "noise=gauss": "noise=gauss: must be one of bernoulli, uniform",
    "model.activation=rleu": "must be one of relu, leaky_relu, gelu, tanh; did you mean relu?",
    "model.output_activation=softmax": "model.output_activation=softmax: must be one of relu",
    "optimizer._target_=torch.optim.LBFGS": "optimizer._target_=torch.optim.LBFGS: must be torch.optim.NAME, one of",
    "logging=some": "logging=some: must be one of minimal, full, per_seed",
    # keys
    "model.widht=8": "model.widht: there is no such key; did you mean model.width?",
    "+model.dept=2": "model.dept: model=mlp has no such key; it has width, depth, output_activation",
    "model=cnn model.width=4": "model.width: there is no such key; allowed are activation, channels, init_gain,",
    "model=own model.factor=3": "an argument of the function is typed with a plus, +model.",
    "model.residual=no": "model.residual='no': it must be true or false",
    "+model.keep_dropout=no": "model.keep_dropout=no: must be a valid boolean",
    "+model.layers=[2,6]": "model.layers=[2, 6]: must be a valid string",
    "optimizer=sgd +optimizer.nesterov=no": "optimizer.nesterov='no': it must be true or false",
    "+optimizer.eps=small": "optimizer: torch.optim.Adam refuses",
    "+rat=0.5": "rat: there is no such key; did you mean rate?",
    "+data.trian_size=10": "data.trian_size: there is no such key; did you mean data.train_size?",
    "+trainer.max_epoch=3": "trainer.max_epoch: there is no such key; did you mean trainer.max_epochs?",
    "+trainer.devices=2": "trainer.devices: there is no such key; the seeds train as one stack on one device",
    "data=digit": "data=digit: must be one of blog, breast_cancer, digits",
    "model=resnet": "model=resnet: must be one of blog, cnn, mlp",
    "optimizer=lion": "optimizer=lion: must be one of adam, adamw, sgd",
    "experiment=orderings": "experiment=orderings: must be one of ",
    "hydra/launcher=submitit_moon": "hydra/launcher=submitit_moon: needs its plugin: pip install 'normdrop[slurm]'",
    "hydra/launcher=cluster": "hydra/launcher=cluster: must be one of processes, ray_cluster, slurm",
    "+trainer.precision=16": "allowed are accelerator, max_epochs, val_check_interval",
    "+trainer.gradient_clip_val=1": "(see optimizer.clip, logging); allowed are",
    "model.bn_momentum=0": "model.bn_momentum=0: must be greater than 0",
    "experiment=drift study.over=drift.scal study.sentence=I": "must be a key of the config that the grid varies; did "
    "you mean drift.scale?",
    "experiment=drift study.over=rate study.sentence=I": "study.over=rate: must be a key with one value, and none of",
    "experiment=drift study.over=noise study.sentence=I": "study.over=noise: must be a key whose values are numbers",
    "experiment=size study.over=noise study.sentence=I": "study.over=noise: must be a key whose values are numbers",
    "experiment=size data.train_size=50,100,null": "study.over=data.train_size: must be a key whose values are numbers",
    "experiment=six study.tuned=[rate,optimizer.lrr]": "study.tuned=optimizer.lrr: must be a key of the config",
    "model.name=resnet": "model.file: model=resnet needs a file",
    "+data.fingerprint=0": "data.fingerprint: there is no such key",
    "~optimizer": "optimizer: is missing",
    "~drift.scale": "drift.scale: is missing",
    "~data.test_fraction": "data.test_fraction: is missing",
    "data=_split": "data=_split: a part of others, no option; must be one of blog, breast_cancer",
    "name=x_${hydra.job.num}": "name: Interpolation key 'hydra.job.num'",
    "data=glob(zzz*)": "data=glob(zzz*): matches nothing",
    "data=table data.path=glob(*.csv)": "data.path=glob(*.csv): matches nothing",
    "data=/data/x.csv": "a file is read by data=table data.path=/data/x.csv",
    "hydra/sweeper=optuna": "hydra/sweeper=optuna: leave it out; a grid is key=a,b,c",
    "hydra/sweeper=basic": "hydra/sweeper=basic: leave it out",
    "--rate=0.3": "--rate=0.3: there is no such option; overrides are typed without dashes",
    "data=digits,synthetic data.colour=3": "data.colour: none of data=digits, data=synthetic has such a key",
    "hydra.sweep.dir=outputs/u_${rate}": "hydra.sweep.dir=outputs/u_${rate}: depends on rate; of the config's keys",
    "hydra.sweep.dir=outputs/${name}_${data.name} data=digits,blog": "depends on data.name",
    "name=x_${arrangement} arrangement=bn,none": "name=x_bn: depends on a swept key; name the study without it",
    "--run": "--run: leave it out",
    "--config-name=config": "type the `command` of its record.json",
    # the syntax of overrides
    "data.path=~/mine.csv": """the value cannot be read; if it is text, type it in quotes: 'data.path="~/mine.csv"'""",
    "data=table data.categorical=[Größe,b]": """'data.categorical=["Größe",b]'""",
    "rate": "rate: has no '='; an override is key=value",
    "rate .1": "rate .1: has no '='",
    "=3": "=3: a key is missing before the '='",
    "rate=[": "rate=[: ",
    "rate=0.5 x": 'rate="0.5 x": must be a valid number',
    "rate=interval(0,1)": "rate: only lists of values can be swept, rate=a,b,c",
    "rate=${nope}": "nope",
    "rate=???": "rate",
    "seeds=[0,1]": "seeds: there is no such key; did you mean first_seed",
    "seed=0,1": "seed: there is no such key; did you mean first_seed",
    "precision=0.01": "precision: there is no such key; did you mean replicates",
    "arrangment=bn,none": "arrangment: there is no such key; did you mean arrangement?",
    "arrangement=BN": "did you mean bn?",
    "replicates=true": "replicates=true: must be a valid integer",
    "+trainer.max_steps=1": "trainer.max_steps: there is no such key",
    # sweeps over a bad value, and over what cannot be swept
    "rate=0.2,0.5,1.5": "rate=1.5: must be less than 1",
    "arrangement=bn,dropout,bnn": "arrangement=bnn: must be one of",
    "rate=0.2,0.5 data=digit": "data=digit: must be one of blog,",
    "data=digits,digit": "data=digit: must be one of blog,",
    "name=a,b": "name: cannot be swept",
    "hydra/launcher=processes hydra.launcher.n_jobs=-1": "n_jobs=-1: it must be a whole number, 1 or more",
    "replicates=2,3": "replicates: cannot be swept",
    "experiment=ordering,speed": "experiment: cannot be swept",
    # paths
    "name=../../evil": "name=../../evil: must be the name of a folder: letters",
    "name=/tmp/evil": "name=/tmp/evil: must be the name of a folder: letters",
    "name=null": "name=null: must be the name of a folder: letters",
    "name=''": "name=: must be the name of a folder: letters",
    "data.name=a/b": "data.name=a/b: must be the name of a folder: letters, digits",
    "name=x/report": "name=x/report: must be the name of a folder: letters",
    "name=Report": "only, none of error.txt, history.csv, networks.pt, overview, plan.json, record.json, repl",
    "data.name=plan.json": "data.name=plan.json: must be the name of a folder",
    f"data.name={'a' * 201}": f"data.name={'a' * 201}: too long for the name of a folder; give a shorter one",
    f"name={'a' * 201}": f"name={'a' * 201}: too long for the name of a folder; give a shorter one",
    # words that YAML or Hydra read as something else
    "data=table data.target=true": """data.target=true: must be text, and true is none: put it in quotes, """,
    "data=table data.drop=[a,null]": """null is none: put it in quotes, 'data.drop=[a,"null"]' """,
    "data=table data.missing=[false,-999]": """in quotes, 'data.missing=["false","-999"]' """,
    "data=table data.group_column=true": """in quotes, 'data.group_column="true"' """,
    "data=table data.drop=true": """in quotes, 'data.drop=["true"]' """,
    "data=table data.categorical=[true]": """in quotes, 'data.categorical=["true"]' """,
    # the split: what else is refused of it, `data/test_module.py` tries
    "data.train_size=100000": "data.train_size=100000: only 1149 rows are left beside val and test",
    "data.level=-1": "data.level=-1: must be greater than 0",
    # what a config must not run
    "data.source=os.system": "data.source=os.system: must be one of digits, breast_cancer",
    "+optimizer.betta=1": "optimizer.betta: torch.optim.Adam has no such key; it has lr, betas",
    "engine=compiled +optimizer.amsgrad=true": "amsgrad; engine=torch trains everything",
    # what is declared before anything runs
    "experiment=ordering study.alpha=0": "study.alpha=0: must be greater than 0",
    "experiment=ordering study.metric=accuracy study.sentence=I": "study.metric=accuracy: must be one of test_acc",
    "experiment=ordering study.contrast.a=bnd study.sentence=I": "study.contrast.a=bnd: must be one of none, dropout",
    "experiment=ordering study.kind=ratios study.sentence=I": "study.kind=ratios: must be one of difference, "
    "spread, loss, ladder, mechanism, ratio",
    "experiment=ordering study.contrast.b=bn": "study.contrast.b: asks another question than the declared study.sent",
    "experiment=speed study.metric=test_acc": "change that too",
    "experiment=ordering +study.alhpa=0.1": "study.alhpa: there is no such key; did you mean study.alpha?",
    "experiment=ordering ~study.claim": "study.claim: is missing",
    "experiment=ordering study=7": "study",
    # a folder that holds something else
    "experiment=ordering arrangement=none name=kept optimizer.lr=0.5": "optimizer.lr was 0.001, now 0.5",
    "experiment=ordering arrangement=none name=kept optimizer.lr=0.001 study.alpha=0.2": "study.alpha was 0.05, now 0",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_configuration_ends_in_one_line_before_training(arguments, monkeypatch, capsys):
    split = arguments.split() if " " in arguments and arguments not in ("rate=0.5 x", "rate .1") else [arguments]
    assert WRONG[arguments] in refused(monkeypatch, capsys, *split)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_network_that_a_package_installs_is_pointed_at(monkeypatch, capsys):
    def theirs(*, group, name=None):
        points = [EntryPoint("theirs", "x:make", "normdrop.models")] if group == "normdrop.models" else []
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(app, "entry_points", theirs)
    assert refused(monkeypatch, capsys, "model=theirs").endswith("model=own model.name=theirs")
    assert "model.name=" not in refused(monkeypatch, capsys, "model=others")


def test_a_gpu_that_is_not_there_ends_in_one_line(monkeypatch, capsys):
    said = refused(monkeypatch, capsys, "trainer.accelerator=gpu")
    assert said == "trainer.accelerator=gpu: no CUDA device is available here; allowed are auto and cpu"


# --- files: what a table is refused for, `data/test_tables.py` tries; here it goes through the application

TABLE = ("data=table", "data.target=label", "data.train_size=null")


@pytest.fixture
def table(tmp_path) -> Path:
    rows = [f"{i + 0.5},{i % 7},{'xyz'[i % 3]}" for i in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *rows]))
    return tmp_path / "t.csv"


@pytest.mark.parametrize(
    ("first", "batch", "start", "message"),
    [("red", 6, "data", "'a' holds 'red' (row 1), which is not a number"), ("1", 70, "batch_size=70", "from 2 to ")],
)
def test_a_wrong_file_ends_in_one_line_before_training(first, batch, start, message, table, monkeypatch, capsys):
    table.write_text(table.read_text().replace("0.5", first, 1))
    said = refused(monkeypatch, capsys, *TABLE, f"data.path={table}", f"batch_size={batch}")
    assert said.startswith(start) and message in said


def test_a_file_larger_than_memory_ends_in_one_line(table, monkeypatch, capsys):
    monkeypatch.setattr(asked, "memory", lambda: 100)
    assert "of its rows would fit" in refused(monkeypatch, capsys, *TABLE, f"data.path={table}")
