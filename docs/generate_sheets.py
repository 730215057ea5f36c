"""Draw the contact sheets of docs/synthetic.md; `python -P docs/generate_sheets.py`."""

from pathlib import Path

from wafer.datasets.synthetic.plan import PAPER_COUNTS, SampleSpec, plan_samples
from wafer.datasets.synthetic.recipes import DIFFICULTIES, MODES
from wafer.datasets.synthetic.sheets import contact_sheet

FOLDER = Path(__file__).with_name("images")


def one_each(**settings: object) -> list[SampleSpec]:
    """Return the first image of each class in the order of the class table."""
    specs = plan_samples(dict.fromkeys(PAPER_COUNTS, 12), **settings)  # type: ignore[arg-type]
    return [next(spec for spec in specs if spec.image_class == name) for name in PAPER_COUNTS]


def several(number: int, *, seed: int) -> list[SampleSpec]:
    """Return some images of each class, class by class."""
    specs = plan_samples(dict.fromkeys(PAPER_COUNTS, 12), seed=seed)
    return [
        spec
        for name in PAPER_COUNTS
        for spec in [spec for spec in specs if spec.image_class == name][:number]
    ]


def main() -> None:
    """Draw all of them."""
    contact_sheet(several(4, seed=1), FOLDER / "synth_680.jpg", columns=8, side=230)
    contact_sheet(several(3, seed=2), FOLDER / "synth_256.jpg", columns=8, side=256)
    levels = [spec for level in DIFFICULTIES for spec in one_each(difficulty=level, seed=3)]
    contact_sheet(levels, FOLDER / "synth_difficulties.jpg", columns=8, side=200)
    many = plan_samples(dict.fromkeys(PAPER_COUNTS, 60), seed=4)
    modes = [
        next(spec for spec in many if (spec.image_class, spec.mode) == (name, mode))
        for mode in MODES
        for name in PAPER_COUNTS
    ]
    contact_sheet(modes, FOLDER / "synth_modes.jpg", columns=8, side=200)


if __name__ == "__main__":
    main()
