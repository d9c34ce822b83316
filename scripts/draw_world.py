"""Save a contact sheet of a drawn world: one row a class, to see what a model is asked to tell apart."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image, ImageDraw

from cpt_plugin.errors import CPTError
from cpt_plugin.worlds import parse_world
from datasets.shapes_world.class_sets import class_set
from datasets.shapes_world.draw import draw_world

LABEL_WIDTH, SCALE = 190, 2


def main() -> int:
    """Parse the arguments, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", nargs="?", default="shapes", help="shapes[:CLASSSET[:DOMAIN]]")
    parser.add_argument("--out", type=Path, default=Path("world.png"), help="PNG file to write")
    parser.add_argument("--per-class", type=int, default=12, help="images a class")
    arguments = parser.parse_args()
    try:
        world = parse_world(arguments.world)
    except CPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    classes = class_set(world.class_set)
    images, labels = draw_world(world, "val", arguments.per_class)
    cell = images.shape[-1] * SCALE
    size = (LABEL_WIDTH + cell * arguments.per_class, cell * len(classes))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, spec in enumerate(classes):
        pen.text((6, row * cell + cell // 2 - 6), spec.name, fill="black")
        for column, image in enumerate(images[labels == row]):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture = picture.resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(picture, (LABEL_WIDTH + column * cell, row * cell))
    sheet.save(arguments.out)
    print(f"{world.name}: {len(classes)} classes, {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
