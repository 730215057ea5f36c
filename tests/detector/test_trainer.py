"""The state that a training goes on from: on another device, and where its file is damaged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wafer.datasets.errors import TrainingError
from wafer.detector.plan import PLAN, read_plan
from wafer.detector.trainer import STATE, WaferTrainer, read_state


def saved_state(run: Path, **changes: Any) -> bytes:
    """Save the state of a made-up training after its first epoch, and return the bytes."""
    model = torch.nn.Linear(2, 1)
    state = {
        "epoch": 0,
        "complete": False,
        "best_fitness": 0.5,
        "stopper": {"best_fitness": 0.5, "best_epoch": 1},
        "model": model.state_dict(),
        "ema": model.state_dict(),
        "updates": 3,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
        "scaler": {},
        "results": "epoch\n1\n",
        **changes,
    }
    (run / STATE).parent.mkdir(parents=True)
    torch.save(state, run / STATE)
    return (run / STATE).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: b"PK\x03\x04garbage",
        lambda content: b"\x00" * len(content),
        lambda content: b"\x80\x02garbage",
    ],
)
def test_a_damaged_state_is_named_with_the_remedy(tmp_path: Path, damage: Any) -> None:
    content = saved_state(tmp_path)
    state = read_state(tmp_path)
    assert state is not None
    assert (state["epoch"], state["results"]) == (0, "epoch\n1\n")
    (tmp_path / STATE).write_bytes(damage(content))
    with pytest.raises(TrainingError) as caught:
        read_state(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / STATE}: the state to go on from is damaged; remove the run folder "
        f"{tmp_path} and start the same command again"
    )


def test_without_a_state_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", '{"arch', "[]", "{}", '{"start": null, "cache": 1}', "\x00"])
def test_a_damaged_plan_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(TrainingError, match=rf"{PLAN}: this is no plan .* run folder {tmp_path} "):
        read_plan(tmp_path / PLAN)


def test_a_training_begun_without_a_scaler_goes_on_with_one(tmp_path: Path) -> None:
    saved_state(tmp_path)
    model = torch.nn.Linear(2, 1)
    trainer = object.__new__(WaferTrainer)
    trainer.__dict__.update(
        save_dir=tmp_path,
        csv=tmp_path / "results.csv",
        epochs=4,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0),
        stopper=SimpleNamespace(),
    )
    trainer.model = model
    trainer.resume_training(None)
    assert trainer.start_epoch == 1
    assert trainer.scaler.get_scale() == 8.0
    assert trainer.csv.read_text() == "epoch\n1\n"
