"""The commands of labelling: exit codes and one-line errors."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wafer.cli import app
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import open_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelling") / "w"
    generate_workspace(root, images=48, counts="balanced", size=64, processes=1)
    return root


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_the_ledger_from_nothing_to_an_edit(made: Path) -> None:
    where = ("--workspace", made)
    assert run("ledger", "verify", *where)[:2] == (0, "0 entries about 0 images, 0 faults\n")
    number = len(list((made / "labels").iterdir()))
    assert run("ledger", "adopt", "--who", "Ada", *where)[:2] == (
        0,
        f"{number} label files recorded\n",
    )
    assert run("ledger", "adopt", *where)[1] == "0 label files recorded\n"
    assert run("ledger", "rebuild", *where)[1] == "0 label files written\n"
    sample = next(s for s in open_workspace(made).samples() if s.annotations)
    path = open_workspace(made).label_path(sample.image)
    path.write_text("0 0.5 0.5 0.25 0.25\n")
    code, out, err = run("ledger", "verify", *where)
    assert code == 1
    assert out.endswith("images, 1 faults\n")
    assert f"{path}: changed by hand since the ledger recorded it" in err
    code, _, err = run("label-propagate", *where)
    assert code == 1
    assert "wafer ledger adopt" in err
    code, out, err = run("ledger", "rebuild", *where)
    assert (code, out) == (0, "1 label files written\n")
    assert f"{path}.bak-1" in err
    assert run("ledger", "verify", *where)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("label-propagate",), "wafer: every image has boxes of a person or by a rule; nothing"),
        (("label-propagate", "--folds", "1", "--promise", "2"), "wafer: --folds must be from 2"),
        (("audit",), "wafer: nothing was labelled yet; run `wafer label-propagate`"),
        (("audit", "filled.csv"), "wafer: nothing was labelled yet"),
        (("audit", "--json"), "wafer: --json goes with a filled audit.csv; leave it out"),
        (("label-propagate", "--yes"), "wafer: --yes goes with --teacher; leave it out"),
        (("seed", "3", "--yes"), "wafer: --yes goes with --to roboflow; leave it out"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    made: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(*arguments, "--workspace", made)
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
