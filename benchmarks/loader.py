"""Images per second that the data loader gives, per core, from JPEG files of a usual size."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cpt_plugin.toolkit.embedded import Datum, get_cfg_default
from cpt_plugin.toolkit.embedded.loader import batches, build_data_loader, read_image, release_workers
from cpt_plugin.toolkit.embedded.transforms import build_transform

WIDTH, HEIGHT, BATCH = 500, 375, 32
WORKERS = (0, 1, 2)
AMPLITUDES = {4: 60, 16: 35, 64: 18}
"""Cells across a picture, and how strong they are; fine noise is added."""


def throughput(images: int = 512, rounds: int = 3) -> dict[str, Any]:
    """Medians over the rounds, in which all settings take turns.

    ``rows``: images per second of the clock and of processor time (that of workers included) for each number of
    workers, with and without the cache of decoded images, which is made before. Training images: decoded, random
    crop to 224 px (bicubic), flip, normalized, as CoOp's yaml has it. A round is two epochs of a loader: by the clock
    only the second counts, at which the workers are running; processor time is that of both, and of starting them.
    ``decode_ms``: processor time of decoding one image.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [picture(Path(folder) / f"{number}.jpg", number) for number in range(images)]
        items = [Datum(str(path), number % 10, classname=str(number % 10)) for number, path in enumerate(paths)]
        settings = [(workers, cached) for workers in WORKERS for cached in (False, True)]
        found: dict[tuple[int, bool], list[tuple[float, float]]] = {setting: [] for setting in settings}
        for _ in range(rounds):
            for workers, cached in settings:
                found[workers, cached].append(_rates(items, workers, Path(folder) / "cache" if cached else None))
        start = time.process_time()
        for path in paths:
            read_image(str(path))
        decode = (time.process_time() - start) / images
        size = statistics.mean(path.stat().st_size for path in paths)
    rows = [
        {"workers": workers, "cached": cached, "per_second": statistics.median(clock for clock, _ in rates),
         "per_cpu_second": statistics.median(cpu for _, cpu in rates)}
        for (workers, cached), rates in found.items()
    ]  # fmt: skip
    about = {"images": images, "rounds": rounds, "width": WIDTH, "height": HEIGHT, "kilobytes": size / 1000}
    return {**about, "decode_ms": 1000 * decode, "rows": rows}


def picture(path: Path, seed: int) -> Path:
    """Write a JPEG whose size in bytes is a photograph's."""
    generator = np.random.default_rng(seed)
    pixels = 120 + generator.normal(0, 5, (HEIGHT, WIDTH, 1)) + np.zeros(3)
    for cells, amplitude in AMPLITUDES.items():
        coarse = generator.normal(size=(3, cells * HEIGHT // WIDTH + 2, cells + 2)).astype(np.float32)
        fine = [Image.fromarray(channel).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for channel in coarse]
        pixels += amplitude * np.stack([np.asarray(channel) for channel in fine], axis=-1)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def _rates(items: list[Any], workers: int, cache: Path | None) -> tuple[float, float]:
    """Images per second by the clock, and by the processor time of this process and its workers."""
    cfg = get_cfg_default()
    cfg.merge_from_list([
        "SEED", 1, "DATALOADER.NUM_WORKERS", workers, "INPUT.INTERPOLATION", "bicubic",
        "INPUT.TRANSFORMS", ("random_resized_crop", "random_flip", "normalize"),
        "IMAGE_CACHE.ENABLED", cache is not None, "IMAGE_CACHE.DIR", str(cache or ""), "USE_CUDA", False,
    ])  # fmt: skip
    loader = build_data_loader(cfg, "RandomSampler", items, BATCH, tfm=build_transform(cfg))
    loader.dataset.prepare()  # type: ignore[attr-defined]
    before = _processor_seconds()
    for epoch in range(2):
        start = time.perf_counter()
        count = sum(len(batch["label"]) for batch in batches(loader, epoch))
        seconds = time.perf_counter() - start
    release_workers(loader)
    return count / seconds, 2 * count / (_processor_seconds() - before)


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
