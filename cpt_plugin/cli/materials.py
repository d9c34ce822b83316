"""Checks, before anything is installed, that images and CLIP weights are there; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.methods import nearest

MICRO = "micro"
WEIGHTS_URL = "https://openaipublic.azureedge.net/clip/models"
CLIP_CACHE = Path("~/.cache/clip")


@dataclass(frozen=True)
class Layout:
    """Where a data set's images lie below the data root, and where they and CoOp's split file come from."""

    images: tuple[str, ...]
    split: str = ""
    source: str = ""


LAYOUTS = {
    "imagenet": Layout(
        ("imagenet/images/train", "imagenet/images/val"), "imagenet/classnames.txt", "https://image-net.org"
    ),
    "caltech101": Layout(
        ("caltech-101/101_ObjectCategories",),
        "caltech-101/split_zhou_Caltech101.json",
        "101_ObjectCategories.tar.gz of vision.caltech.edu",
    ),
    "oxford_pets": Layout(
        ("oxford_pets/images",),
        "oxford_pets/split_zhou_OxfordPets.json",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
    ),
    "stanford_cars": Layout(
        ("stanford_cars/cars_train", "stanford_cars/cars_test"),
        "stanford_cars/split_zhou_StanfordCars.json",
        "a mirror (the authors' server has been off since 2023)",
    ),
    "oxford_flowers": Layout(
        ("oxford_flowers/jpg",),
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
    ),
    "food101": Layout(
        ("food-101/images",),
        "food-101/split_zhou_Food101.json",
        "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
    ),
    "fgvc_aircraft": Layout(
        ("fgvc_aircraft/images",), source="fgvc-aircraft-2013b.tar.gz of www.robots.ox.ac.uk"
    ),
    "sun397": Layout(
        ("sun397/SUN397",), "sun397/split_zhou_SUN397.json", "SUN397.tar.gz of vision.princeton.edu"
    ),
    "dtd": Layout(
        ("dtd/images",), "dtd/split_zhou_DescribableTextures.json", "dtd-r1.0.1.tar.gz of www.robots.ox.ac.uk"
    ),
    "eurosat": Layout(
        ("eurosat/2750",), "eurosat/split_zhou_EuroSAT.json", "http://madm.dfki.de/files/sentinel/EuroSAT.zip"
    ),
    "ucf101": Layout(
        ("ucf101/UCF-101-midframes",),
        "ucf101/split_zhou_UCF101.json",
        "UCF-101-midframes.zip, Google Drive id 10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",
    ),
    "imagenetv2": Layout(
        ("imagenetv2/imagenetv2-matched-frequency-format-val",), source="imagenetv2-matched-frequency.tar.gz"
    ),
    "imagenet_sketch": Layout(
        ("imagenet-sketch/images",), source="https://github.com/HaohanWang/ImageNet-Sketch"
    ),
    "imagenet_a": Layout(
        ("imagenet-adversarial/imagenet-a",), source="https://github.com/hendrycks/natural-adv-examples"
    ),
    "imagenet_r": Layout(
        ("imagenet-rendition/imagenet-r",), source="https://github.com/hendrycks/imagenet-r"
    ),
}

WEIGHTS = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}


def check_images(dataset: str, root: Path) -> None:
    """Make sure that a real data set's folders are below `root`.

    Raises DataError saying which folders are missing, where to put them and where to get them.
    """
    layout = LAYOUTS.get(dataset, Layout((dataset,)))
    missing = [folder for folder in layout.images if not (root / folder).is_dir()]
    if not missing:
        return
    folders = ", ".join(str(root / folder) for folder in missing)
    lines = [f"the images of '{dataset}' are not there: {folders}"]
    if layout.source:
        lines.append(f"  images:     {layout.source}, unpacked to {root / layout.images[0]}")
    if layout.split:
        lines.append(f"  split file: {root / layout.split} (from CoOp's DATASETS.md, made anew when absent)")
    lines.append("  elsewhere:  give the folder above it with --root FOLDER or DATA_ROOT=FOLDER")
    lines.append("  no data:    'shapes' needs none, e.g. bash scripts/run.sh maple_cpt shapes 0.25")
    raise DataError("\n".join(lines))


def check_backbone(name: str) -> None:
    """Make sure that a backbone is known and its weights are on this machine.

    Raises ConfigError for an unknown name, DataError saying where to put missing weights.
    """
    if name == MICRO or Path(name).expanduser().is_file():
        return
    if name not in WEIGHTS:
        names = [MICRO, *WEIGHTS]
        raise ConfigError(
            f"unknown backbone '{name}'; nearest: '{nearest(name, names)}'; "
            f"possible: {', '.join(names)}, or the path of a weights file"
        )
    file = CLIP_CACHE.expanduser() / (name.replace("/", "-").replace("@", "-") + ".pt")
    if not file.is_file():
        url = f"{WEIGHTS_URL}/{WEIGHTS[name]}/{file.name}"
        raise DataError(
            f"the weights of CLIP {name} are not there: {file}\n"
            f"  get them:   mkdir -p {file.parent} && curl -o {file} {url}\n"
            f"  or give:    --backbone FILE (weights elsewhere), --backbone {MICRO} (embedded; 'shapes' only)"
        )
