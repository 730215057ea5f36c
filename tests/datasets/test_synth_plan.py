"""Counts, wafers and specifications: no image is drawn here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, spearmanr

from wafer.datasets import DataError
from wafer.datasets.classes import paper_classes
from wafer.datasets.synthetic import PAPER_COUNTS, class_counts, plan_samples

NAMES = paper_classes().names


def test_paper_counts_are_those_of_the_paper() -> None:
    assert sum(PAPER_COUNTS.values()) == 8546
    assert (PAPER_COUNTS["no_defect"], PAPER_COUNTS["scratch"]) == (2000, 44)
    assert class_counts("paper", images=8546) == dict(PAPER_COUNTS)


def test_paper_counts_scaled_to_600() -> None:
    # Scratch would get 3.1 and is lifted to 6; the others share 594 in proportion to n / 8502:
    # 139.73, 146.72, 104.80, 76.85, 62.88, 41.92, 21.10, of which the five largest remainders
    # are rounded up.
    assert class_counts("paper", images=600) == {
        "no_defect": 140,
        "BEOL": 146,
        "small_residue": 105,
        "C_residue": 77,
        "small_missing_cu": 63,
        "particle": 42,
        "scratch": 6,
        "deviation": 21,
    }


@given(st.integers(48, 20_000), st.sampled_from(["paper", "balanced"]))
def test_scaled_counts_sum_up_with_six_of_each(images: int, counts: str) -> None:
    numbers = class_counts(counts, images=images)
    assert sum(numbers.values()) == images
    assert min(numbers.values()) >= 6
    assert tuple(numbers) == NAMES


def test_balanced_counts_differ_by_one_at_most() -> None:
    assert sorted(class_counts("balanced", images=50).values()) == [6] * 6 + [7] * 2


def test_given_counts_are_taken_as_they_stand() -> None:
    wanted = {"no_defect": 5, "scratch": 3}
    assert class_counts("scratch=3, no_defect=5,BEOL=0", images=999) == wanted
    assert class_counts({"scratch": 3, "no_defect": 5}, images=999) == wanted


@pytest.mark.parametrize(
    ("counts", "images", "texts"),
    [
        ("paper", 47, ["47 images cannot hold 6 of each class", "48"]),
        ("balanced", -1, ["-1 images"]),
        ("sratch=3,BEOL=-2,BEOL=4", 600, ["'sratch'", "-2 images", "'BEOL' is given twice"]),
        ("scratch", 600, ["'scratch'", "NAME=N"]),
        ("scratch=x,,BEOL=1.5", 600, ["'scratch=x'", "''", "'BEOL=1.5'"]),
        ("scratch=2", 600, ["2 images in all"]),
        ("BEOL=2000000", 600, ["2000000 images in all"]),
        ({"scratch": -1}, 600, ["-1 images of 'scratch'"]),
    ],
)
def test_bad_counts_are_all_named(
    counts: str | dict[str, int], images: int, texts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        class_counts(counts, images=images)
    assert all(text in str(caught.value) for text in texts)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"size": 63}, "size 63"),
        ({"size": 4097}, "size 4097"),
        ({"difficulty": "medium"}, "unknown difficulty 'medium'"),
        ({"center_sigma": -0.1}, "centre spread -0.1"),
        ({"center_sigma": float("nan")}, "centre spread nan"),
        ({"families": ["lines", "maze"]}, "'maze'"),
        ({"families": []}, "families"),
        ({"tools": ["sharp", "blunt"]}, "'blunt'"),
        ({"tools": []}, "tools"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        plan_samples({"scratch": 10}, **settings)  # type: ignore[arg-type]


def test_every_class_of_six_lies_in_three_wafers_or_more() -> None:
    for seed in range(30):
        wafers = defaultdict(set)
        for spec in plan_samples(class_counts("paper", images=48 + 37 * seed), seed=seed):
            wafers[spec.image_class].add(spec.group)
        assert min(map(len, wafers.values())) >= 3


def test_wafers_mix_classes_and_share_tool_and_layout() -> None:
    wafers = defaultdict(list)
    for spec in plan_samples(class_counts("paper", images=600), seed=3):
        wafers[spec.group].append(spec)
    for members in wafers.values():
        assert 8 <= len(members) <= 10
        assert len({spec.image_class for spec in members}) >= 3
        assert len({(s.mode, s.family, s.tool, s.wafer_seed) for s in members}) == 1
    assert all(re.fullmatch(r"L\d\dW0[1-5]", group) for group in wafers)


def test_modes_have_their_shares() -> None:
    specs = plan_samples({"BEOL": 900}, seed=0)
    modes = Counter(spec.mode for spec in specs)
    assert modes == {"sem": 540, "bright_field": 270, "dark_field": 90}


@pytest.mark.parametrize("key", ["mode", "family", "tool"])
def test_mode_family_and_tool_are_blind_to_class(key: str) -> None:
    specs = plan_samples(class_counts("balanced", images=4000), seed=1)
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for spec in specs:
        table[spec.image_class][getattr(spec, key)] += 1
    values = sorted({getattr(spec, key) for spec in specs})
    assert chi2_contingency([[row[v] for v in values] for row in table.values()]).pvalue > 0.05


def test_names_tell_nothing() -> None:
    specs = plan_samples(class_counts("balanced", images=4000), seed=1)
    names = [spec.name for spec in specs]
    assert len(set(names)) == 4000
    assert all(re.fullmatch(r"[0-9a-f]{12}\.jpg", name) for name in names)
    classes = [NAMES.index(spec.image_class) for spec in specs]
    assert spearmanr(range(4000), classes).pvalue > 0.05
    assert spearmanr(range(4000), [spec.seed for spec in specs]).pvalue > 0.05
    first: dict[str, Counter[str]] = defaultdict(Counter)
    for spec in specs:
        first[spec.image_class][spec.name[0]] += 1
    rows = [[row[digit] for digit in "0123456789abcdef"] for row in first.values()]
    assert chi2_contingency(rows).pvalue > 0.05


def test_plan_follows_its_seed() -> None:
    counts = class_counts("balanced", images=64)
    assert plan_samples(counts, seed=1) == plan_samples(counts, seed=1)
    one, other = ({s.name for s in plan_samples(counts, seed=seed)} for seed in (1, 2))
    assert not one & other


def test_families_can_be_held_out() -> None:
    specs = plan_samples({"BEOL": 200}, families=["pads", "vias"])
    assert {spec.family for spec in specs} == {"pads", "vias"}


def test_tools_can_be_held_out() -> None:
    specs = plan_samples({"BEOL": 200}, tools=["sharp", "standard"])
    assert {spec.tool for spec in specs} == {"sharp", "standard"}


@pytest.mark.parametrize(
    ("difficulty", "asked", "expected"),
    [("paper", None, 0.04), ("easy", None, 0.04), ("hard", None, None), ("hard", 0.1, 0.1)],
)
def test_the_difficulty_says_how_well_defects_are_centred(
    difficulty: str, asked: float | None, expected: float | None
) -> None:
    specs = plan_samples({"BEOL": 3}, difficulty=difficulty, center_sigma=asked)
    assert {spec.center_sigma for spec in specs} == {expected}
