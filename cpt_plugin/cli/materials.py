"""Images and CLIP weights that a run needs: are they there, and if not, can they be had; standard library only.

Checked before anything is installed. What is missing is handed to one of three functions: :func:`refuse` says how to
get it, :func:`announce` does so only when it cannot be downloaded now, :func:`provide` downloads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpt_plugin import openai_weights
from cpt_plugin.backbones import MICRO
from cpt_plugin.data.instructions import announcement, get_command, other_ways, screen
from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import Manifest, manifest_names, manifest_of
from cpt_plugin.data.plan import Piece, obstacle, pieces, weights_piece
from cpt_plugin.data.progress import say
from cpt_plugin.errors import DataError

__all__ = ["MICRO", "Lacking", "Supply", "announce", "lacking", "missing_weights", "provide", "refuse"]


@dataclass(frozen=True)
class Lacking:
    """What is missing for a run.

    Attributes:
        dataset, backbone: names on the command line.
        root: data root.
        images: pieces of the data set.
        weights: pieces of the model.
        own_split: the published split file is not wanted.
        offline: the command forbids to download the weights.
    """

    dataset: str
    backbone: str
    root: Path
    images: tuple[Piece, ...] = ()
    weights: tuple[Piece, ...] = ()
    own_split: bool = False
    offline: bool = False

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All of them."""
        return self.images + self.weights

    def screen(self, reason: str) -> str:
        """How a person gets them, on one screen."""
        parts = [f"'{self.dataset}'"] * bool(self.images) + [f"CLIP {self.backbone}"] * bool(self.weights)
        manifest = manifest_of(self.dataset) if self.images else None
        ways = other_ways(manifest, self.pieces, backbone=bool(self.weights))
        get = f", or: {get_command(self.dataset, self.root, self.own_split)}" if self.images else ""
        return screen(" and ".join(parts), reason, self.pieces, f"give the same command again{get}", ways)


Supply = Callable[[Lacking], None]


def lacking(dataset: str, root: Path, backbone: str, options: Sequence[str] = ()) -> Lacking:
    """What of a data set's files and a model's weights is not on this machine.

    ``options`` are the command's ``KEY VALUE`` pairs: DATASET.SPLIT and MODEL.BACKBONE's PATH and DOWNLOAD count.

    Raises:
        DataError: the data set is on this machine, but not where it is looked for.
    """
    values = dict(zip(options[::2], options[1::2], strict=True))
    own_split = values.get("DATASET.SPLIT") == "own"
    manifest = _manifest(dataset)
    if manifest:
        refuse_misplaced(manifest, root, own_split)
    images = tuple(pieces(manifest, root, own_split)) if manifest else ()
    weights = missing_weights(backbone, values.get("MODEL.BACKBONE.PATH"))
    offline = weights is not None and values.get("MODEL.BACKBONE.DOWNLOAD") == "False"
    return Lacking(dataset, backbone, root, images, (weights_piece(*weights),) if weights else (), own_split, offline)


def missing_weights(name: str, root: str | None = None) -> tuple[Path, str, str] | None:
    """Where the weights of a backbone belong, their address and SHA-256; None if they are there, or in ``root``.

    None as well for weights that only the open_clip package can find.
    """
    if name not in openai_weights.SHA256 or openai_weights.find(name, root) is not None:
        return None
    return openai_weights.cache_file(name), openai_weights.address(name), openai_weights.SHA256[name]


def refuse(missing: Lacking) -> None:
    """Raises DataError with instructions."""
    raise DataError(missing.screen("nothing was downloaded"))


def announce(missing: Lacking) -> None:
    """Say what will be downloaded; Raises DataError with instructions when it cannot be."""
    reason = obstacle(missing.pieces)
    if reason:
        raise DataError(missing.screen(f"cannot be downloaded now ({reason})"))
    say("\n".join(["to be downloaded first (--no-download: how to do that by hand):", *announcement(missing.pieces)]))


def provide(missing: Lacking) -> None:
    """Download what is missing; Raises DataError with instructions for what cannot be had."""
    from cpt_plugin.cli.data import run
    from cpt_plugin.data.get import fetch

    announce(missing)
    for piece in missing.weights:
        fetch(piece)
    if missing.images:
        own = ["--own-split"] * missing.own_split
        if run(["get", missing.dataset, "--root", str(missing.root), *own]):
            raise DataError(f"the files of '{missing.dataset}' are not as they should be: see above")


def _manifest(dataset: str) -> Manifest | None:
    return manifest_of(dataset) if dataset in manifest_names() else None
