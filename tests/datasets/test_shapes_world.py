"""The drawn world: determinism, disjoint draws, class sets, captions."""

from __future__ import annotations

import colorsys
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cpt_plugin import worlds
from cpt_plugin.worlds import CLASS_SETS, World
from datasets.shapes_world.captions import (
    STYLE_TEMPLATES,
    TEMPLATES,
    UNMENTIONED,
    CaptionWriter,
    caption_words,
)
from datasets.shapes_world.class_sets import _MAKERS, class_set
from datasets.shapes_world.domains import DOMAINS
from datasets.shapes_world.draw import draw_world
from datasets.shapes_world.geometry import SIGNED_DISTANCES
from datasets.shapes_world.render import Scene, hsv_to_rgb, render
from datasets.shapes_world.seeds import SEED_RANGES, drawing_seed
from datasets.shapes_world.vocabulary import COLOR_HSV, COLORS, SHAPES, STYLES, TEXTURES, attribute_words

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "cpt_plugin" / "assets"
SMALL = World("colors", "clean")


def one_scene(
    shape: str, texture: str = "plain", color: str = "red", count: int = 8, style: str = "clean"
) -> Scene:
    def repeat(index: int) -> torch.Tensor:
        return torch.full((count,), index)

    return Scene(
        repeat(SHAPES.index(shape)), repeat(TEXTURES.index(texture)), repeat(COLORS.index(color)),
        repeat(STYLES.index(style)),
    )  # fmt: skip


class TestDrawing:
    def test_same_seed_same_pixels_and_other_purpose_other_pixels(self) -> None:
        first, labels = draw_world(SMALL, "test", 3)
        again, _ = draw_world(SMALL, "test", 3)
        other, _ = draw_world(SMALL, "train", 3)
        assert torch.equal(first, again)
        assert first.dtype == torch.uint8
        assert first.shape == (36, 3, 32, 32)
        assert labels.tolist() == [label for label in range(12) for _ in range(3)]
        assert not torch.equal(first, other)

    def test_global_random_state_is_neither_read_nor_moved(self) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first, _ = draw_world(SMALL, "val", 2)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        assert torch.equal(first, draw_world(SMALL, "val", 2)[0])

    def test_no_image_is_shared_between_purposes(self) -> None:
        seen: dict[bytes, str] = {}
        for purpose in SEED_RANGES:
            for image in draw_world(SMALL, purpose, 10)[0]:
                assert seen.setdefault(image.numpy().tobytes(), purpose) == purpose

    @pytest.mark.parametrize("domain", [name for name in DOMAINS if name != "clean"])
    def test_every_domain_changes_the_images(self, domain: str) -> None:
        scene = one_scene("star", "striped", "blue", count=16)
        drawn = [render(scene, torch.Generator().manual_seed(3), DOMAINS[name]) for name in ("clean", domain)]
        assert all(image.min() >= 0 and image.max() <= 1 for image in drawn)
        assert (drawn[0] - drawn[1]).abs().mean() > 0.01

    @pytest.mark.parametrize("style", STYLES[1:])
    def test_every_style_changes_the_images(self, style: str) -> None:
        scenes = [one_scene("star", style=name) for name in ("clean", style)]
        drawn = [render(scene, torch.Generator().manual_seed(3)) for scene in scenes]
        assert (drawn[0] - drawn[1]).abs().mean() > 0.01

    @pytest.mark.parametrize("shape", SHAPES)
    def test_each_shape_is_an_object_of_moderate_size_inside_its_frame(self, shape: str) -> None:
        axis = torch.linspace(-1.5, 1.5, 151)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        inside = SIGNED_DISTANCES[shape](x, y) < 0
        area = inside.float().mean().item() * 9
        assert 0.4 < area < 2.8
        assert torch.hypot(x, y)[inside].max() < 1.2

    def test_colors_agree_with_the_standard_library(self) -> None:
        hsv = [*COLOR_HSV.values(), (0.999, 1.0, 1.0), (0.5, 0.3, 0.2)]
        expected = np.array([colorsys.hsv_to_rgb(*color) for color in hsv])
        np.testing.assert_allclose(hsv_to_rgb(torch.tensor(hsv)).numpy(), expected, atol=1e-6)


class TestSeeds:
    def test_ranges_are_disjoint_and_within_what_the_generator_keeps(self) -> None:
        ranges = sorted(SEED_RANGES.values(), key=lambda r: r.start)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
        assert ranges[0].start >= 0
        assert ranges[-1].stop <= 2**32

    def test_seed_lies_in_its_range_and_depends_on_every_part_of_the_key(self) -> None:
        for purpose, seeds in SEED_RANGES.items():
            keys = [("a", 1), ("a", 2), ("b", 1), ("a", "1"), ("a",)]
            drawn = {drawing_seed(purpose, *key) for key in keys}
            assert len(drawn) == len(keys)
            assert all(seed in seeds for seed in drawn)


class TestClassSets:
    @pytest.mark.parametrize("name", CLASS_SETS)
    def test_names_are_distinct_and_halves_cover_the_same_words(self, name: str) -> None:
        classes = class_set(name)
        assert len({spec.name for spec in classes}) == len(classes)
        if name in ("shapes", "colors"):
            return
        assert len(classes) >= 40
        middle = (len(classes) + 1) // 2
        halves = [{w for spec in half for w in spec.words} for half in (classes[:middle], classes[middle:])]
        assert halves[0] == halves[1]
        assert {spec.name for spec in classes[:middle]}.isdisjoint(spec.name for spec in classes[middle:])

    def test_sets_are_those_that_can_be_named_in_the_sizes_that_are_listed(self) -> None:
        assert {name: len(class_set(name)) for name in _MAKERS} == CLASS_SETS
        assert list(_MAKERS) == list(CLASS_SETS)

    def test_domains_are_those_that_can_be_named(self) -> None:
        assert tuple(DOMAINS) == worlds.DOMAINS

    def test_order_is_the_same_in_another_process(self) -> None:
        code = (
            "from datasets.shapes_world.class_sets import class_set;"
            "print([spec.name for spec in class_set('triples')])"
        )
        printed = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout
        assert printed.strip() == str([spec.name for spec in class_set("triples")])


class TestCaptions:
    def test_without_wrong_words_a_caption_says_what_the_image_shows(self) -> None:
        writer, dice = CaptionWriter(wrong=0.0), random.Random(0)
        attributes = (3, 2, 1, 4)
        for _ in range(300):
            caption = writer.write(attributes, dice)
            claimed = [(i, claim) for i, claim in enumerate(caption.claims) if claim != UNMENTIONED]
            assert any(i < 3 for i, _ in claimed)
            for i, claim in claimed:
                assert claim == attributes[i]
                assert (SHAPES, TEXTURES, COLORS, STYLES)[i][claim] in caption.text

    def test_every_attribute_and_template_word_is_in_the_vocabulary(self) -> None:
        words = set(caption_words())
        assert words >= set(attribute_words())
        assert words >= {"a", "photo", "of", ".", "x"}
        assert words.isdisjoint({"", "{}"})
        assert all("{}" in template for template in TEMPLATES + STYLE_TEMPLATES)

    def test_every_class_word_is_in_the_vocabulary_of_the_micro_clip(self) -> None:
        trained = set(json.loads((ASSETS / "micro_clip.json").read_text())["words"])
        for name in CLASS_SETS:
            for spec in class_set(name):
                assert set(spec.name.split()) <= trained
