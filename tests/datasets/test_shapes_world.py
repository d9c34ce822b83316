"""The drawn world: determinism, disjoint draws, class sets, parsing, and whole-or-nothing folders on disk."""

from __future__ import annotations

import colorsys
import itertools
import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpt_plugin.errors import ConfigError, DataError
from datasets.shapes_world import store
from datasets.shapes_world.captions import (
    STYLE_TEMPLATES,
    TEMPLATES,
    UNMENTIONED,
    CaptionWriter,
    caption_words,
)
from datasets.shapes_world.class_sets import CLASS_SETS, class_set
from datasets.shapes_world.domains import DOMAINS
from datasets.shapes_world.draw import draw_world
from datasets.shapes_world.geometry import SIGNED_DISTANCES
from datasets.shapes_world.render import Scene, hsv_to_rgb, render
from datasets.shapes_world.seeds import SEED_RANGES, drawing_seed
from datasets.shapes_world.vocabulary import COLOR_HSV, COLORS, SHAPES, STYLES, TEXTURES, attribute_words
from datasets.shapes_world.worlds import DEFAULT_DOMAINS, NAMED_WORLDS, World, parse_world

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "cpt_plugin" / "assets"
SMALL = World("colors", "clean")


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IMAGES_PER_CLASS", {"train": 2, "val": 1, "test": 2})


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

    def test_order_is_the_same_in_another_process(self) -> None:
        code = (
            "from cpt_plugin.methods import load_worlds;"
            "print([spec.name for spec in load_worlds().parse_world('triples').classes])"
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


class TestParsing:
    def test_short_and_long_forms(self) -> None:
        default = World("triples", DEFAULT_DOMAINS["triples"])
        assert parse_world("") == parse_world("shapes") == parse_world("triples") == default
        warped = World("color_shape", "warp")
        assert parse_world("shapes:color_shape:warp") == parse_world("color_shape:warp") == warped
        assert parse_world("shapes:shapes").class_set == "shapes"
        assert parse_world("shapes:shapes:rot") == parse_world("shapes:rot") == World("shapes", "rot")

    def test_names_round_trip_and_at_least_eight_worlds_are_named(self) -> None:
        assert len({world.name for world in NAMED_WORLDS}) == len(NAMED_WORLDS) >= 8
        assert default_is_named()
        for world in NAMED_WORLDS:
            assert parse_world(world.name) == world

    @pytest.mark.parametrize(
        ("text", "near"),
        [("shapes:tripels", "triples"), ("texture-shape:clean", "texture_shape"), ("triples:tnit", "tint")],
    )
    def test_a_wrong_name_is_answered_with_the_nearest(self, text: str, near: str) -> None:
        with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
            parse_world(text)

    def test_too_many_parts(self) -> None:
        with pytest.raises(ConfigError, match="too many parts"):
            parse_world("shapes:triples:clean:more")

    def test_parsing_needs_the_standard_library_only(self) -> None:
        code = (
            "import sys; from cpt_plugin.methods import load_worlds;"
            "load_worlds().parse_world('triples').classes;"
            "heavy = {'torch', 'numpy', 'PIL'} & sys.modules.keys(); sys.exit(str(heavy) if heavy else 0)"
        )
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def default_is_named() -> bool:
    return parse_world("") in NAMED_WORLDS


@pytest.mark.usefixtures("few_images")
class TestStore:
    def test_draws_once_and_reads_back_the_same_pixels(self, tmp_path: Path) -> None:
        folder = store.ensure_world(tmp_path, SMALL)
        assert folder == tmp_path / "shapes" / "colors-clean"
        split = store.read_split(folder)
        assert {part: len(rows) for part, rows in split.items()} == {"train": 24, "val": 12, "test": 24}
        images, labels = draw_world(SMALL, "test", 2)
        for (path, label, name), image, expected in zip(split["test"], images, labels.tolist(), strict=True):
            assert (label, name) == (expected, SMALL.classes[expected].name)
            stored = np.asarray(Image.open(folder / path))
            np.testing.assert_array_equal(stored, image.permute(1, 2, 0).numpy())
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert store.ensure_world(tmp_path, SMALL) == folder
        assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def test_two_draws_have_equal_manifests(self, tmp_path: Path) -> None:
        folders = [store.ensure_world(tmp_path / name, SMALL) for name in ("a", "b")]
        first, second = ((folder / store.MANIFEST_FILE).read_bytes() for folder in folders)
        assert first == second
        assert len(json.loads(first)["pixels_sha256"]) == 64

    def test_an_interrupted_draw_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved = Image.Image.save
        count = 0

        def fail_late(self: Image.Image, *args: object, **options: object) -> None:
            nonlocal count
            count += 1
            if count == 30:
                raise KeyboardInterrupt
            saved(self, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Image.Image, "save", fail_late)
        with pytest.raises(KeyboardInterrupt):
            store.ensure_world(tmp_path, SMALL)
        assert count == 30
        assert list((tmp_path / "shapes").iterdir()) == []

    def test_a_killed_draw_is_never_used(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from datasets.shapes_world import store;"
            "from datasets.shapes_world.worlds import World;"
            "store._publish = lambda draft, final: os._exit(9);"
            "store.IMAGES_PER_CLASS = {'train': 1, 'val': 1, 'test': 1};"
            "store.ensure_world(sys.argv[1], World('colors', 'clean'))"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False)
        assert done.returncode == 9
        (draft,) = (tmp_path / "shapes").iterdir()
        assert draft.name.startswith(".colors-clean.partial-")
        folder = store.ensure_world(tmp_path, SMALL)
        assert len(store.read_split(folder)["train"]) == 24

    def test_two_draws_at_once_do_not_break_each_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        barrier, publish = threading.Barrier(2, timeout=60), store._publish

        def publish_together(draft: Path, final: Path) -> None:
            barrier.wait()
            publish(draft, final)

        monkeypatch.setattr(store, "_publish", publish_together)
        folders: list[Path] = []
        threads = [
            threading.Thread(target=lambda: folders.append(store.ensure_world(tmp_path, SMALL)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert folders == [tmp_path / "shapes" / "colors-clean"] * 2
        assert list((tmp_path / "shapes").iterdir()) == folders[:1]
        assert len(list(folders[0].rglob("*.png"))) == 60

    @pytest.mark.parametrize("damage", ["manifest", "split", "version", "empty"])
    def test_a_damaged_folder_is_refused_with_the_remedy(self, tmp_path: Path, damage: str) -> None:
        folder = store.world_folder(tmp_path, SMALL)
        if damage == "empty":
            folder.mkdir(parents=True)
        else:
            store.ensure_world(tmp_path, SMALL)
            manifest = folder / store.MANIFEST_FILE
            if damage == "manifest":
                manifest.unlink()
            elif damage == "split":
                (folder / store.SPLIT_FILE).write_text("{}")
            else:
                text = manifest.read_text()
                manifest.write_text(text.replace('"drawing_version": 1', '"drawing_version": 0'))
        with pytest.raises(DataError, match=r"delete .*colors-clean, it is drawn afresh"):
            store.ensure_world(tmp_path, SMALL)

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "shapes").write_text("a file in the way")
        with pytest.raises(DataError, match="give a writable"):
            store.ensure_world(tmp_path, SMALL)
