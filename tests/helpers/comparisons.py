"""Records whose paired differences are known."""

from tests.helpers.records import make_record

WORLDS = tuple(
    f"shapes:{name}" for name in (
        "color_shape:warp", "color_texture:rot", "colors:clean", "shapes:dim", "texture_shape:tint", "triples:shift",
    )
)  # fmt: skip
SEEDS = (1, 2, 3)


def run(method, world, seed, hits=(5,) * 6, new_hits=(5,) * 3, **changes):
    config = {"DATASET.WORLD": world} | changes.pop("config", {})
    hashes = changes.pop("split_hash", (f"{world} {seed}", f"{world} new {seed}"))
    return make_record(
        method, seed, correct=hits, new_correct=new_hits, dataset=world, config=config, split_hash=hashes, **changes
    )


def with_gains(gains, seeds=SEEDS, first="maple_cptb", second="maple", **changes):
    """Records in which the first is above the second by gains[world][seed] images of 90 new ones."""
    found = []
    for world, by_seed in zip(WORLDS, gains, strict=False):
        for seed, gain in zip(seeds, by_seed, strict=True):
            found.append(run(second, world, seed, new_hits=(5,) * 9, **changes))
            hits = [5 + gain // 9 + (place < gain % 9) for place in range(9)]
            found.append(run(first, world, seed, new_hits=tuple(hits), **changes))
    return found
