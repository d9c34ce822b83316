"""Arguments of `scripts/run.sh`, checked before anything is installed; standard library only."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpt_plugin._names import nearest
from cpt_plugin.backbones import MICRO, OPEN_CLIP, check_name, is_resnet, no_visual_prompts, open_clip_name
from cpt_plugin.cli.console import attended
from cpt_plugin.cli.keys import check_key
from cpt_plugin.cli.materials import Lacking, Supply, announce, lacking, refuse
from cpt_plugin.cli.pairs import PairParser
from cpt_plugin.cli.words import (
    COMMANDS,
    Parser,
    called_from,
    data_root,
    parse_count,
    parse_seeds,
    report,
    typed_folder,
)
from cpt_plugin.data.custom import YAML_SUFFIXES, check_own_files, found_names, own_data, own_name, own_root
from cpt_plugin.data.protocol import check_base_to_new
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.long_tail import ALL_IMAGES, NATURAL, tail_in_words
from cpt_plugin.methods import (
    DPC,
    Method,
    added_parts,
    dataset_names,
    find_repository,
    is_embedded,
    parse_dataset,
    parse_method,
    parse_tau,
)
from cpt_plugin.protocols import BASE_TO_NEW, FEW_SHOT_ALL, PROTOCOLS, parse_protocol, tasks

SHOTS = "16"
CLASS_NAMES = "DATASET.CLASS_NAMES"
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
_OWNED_KEYS = {
    "SEED": "--seeds",
    "OUTPUT_DIR": "--output",
    "DATASET.ROOT": "--root",
    "DATASET.NAME": "DATASET",
    "DATASET.NUM_SHOTS": "--shots",
    "DATASET.IMBALANCE_TAU": "TAU",
    "DATASET.SUBSAMPLE_CLASSES": "--protocol",
    "DATASET.MAX_PER_CLASS": "--shots",
    "DATASET.WORLD": "DATASET (shapes:CLASSSET:DOMAIN)",
    "MODEL.BACKBONE.NAME": "--backbone",
    "MODEL.BACKBONE.TRUST": "--trust-weights",
    "MODEL.BACKBONE.UNKNOWN_WORDS": "--backbone (zero for micro on real images)",
    "OPTIM.MAX_EPOCH": "--epochs",
    "RESUME": "what the output folder holds",
    "TEST.NO_TEST": "the protocol (everything is tested)",
    "TEST.SPLIT": "the protocol (test images)",
    "TRAINER.DPC.STAGE_ONE": "METHOD (its first stage runs before it)",
    "TRAINER.DPC.STAGE_ONE_EPOCH": "METHOD (its first stage runs before it)",
    "TRAINER.DPC.STAGE_ONE_HASH": "METHOD (its first stage runs before it)",
    "TRAINER.NAME": "METHOD",
}
_EXAMPLES = """\
examples:
  bash scripts/run.sh maple_cpt shapes 0.25              the embedded data and model: needs no download
  bash scripts/run.sh coop_cpt shapes 0.06 --seeds 1     one seed, a longer tail
  bash scripts/run.sh zeroshot shapes 1                  nothing trained
  bash scripts/run.sh maple_cpt shapes 0.25 CPT.WEIGHT_ETF 0.1 OPTIM.LR 0.002
  bash scripts/run.sh maple_cpt eurosat 0.25 --root ~/data
  bash scripts/run.sh maple_cpt shapes 1 --protocol cross_dataset
  bash scripts/run.sh coop_cpt eurosat 0.25 --backbone open_clip:ViT-B-16/laion2b_s34b_b88k
  bash scripts/run.sh maple_cpt ~/pictures/mydata        your own images, all of them (docs/custom-data.md)
  bash scripts/run.sh list                               methods, data sets and worlds
  bash scripts/run.sh data list                          likewise data, doctor, results, report (--help of each)

The same command given again continues where it stopped and skips what is finished."""


@dataclass(frozen=True)
class RunArguments:
    """What one call of `scripts/run.sh` asks for; paths are absolute, `opts` alternates keys and values.

    `dataset_file` is the yaml, image folder or list of a data set given by its path; otherwise `dataset` names one of
    the repository. `shots` -1 stands for all images; with `tau` 1 the tail is then the data's own.
    """

    method: Method
    dataset: str
    tau: float
    seeds: tuple[int, ...]
    shots: int
    backbone: str
    root: Path
    output: Path
    epochs: int | None
    baseline: bool
    opts: tuple[str, ...]
    trust_weights: bool = False
    dataset_file: Path | None = None
    protocol: str = BASE_TO_NEW
    variant: bool = False

    @property
    def only_tries_out(self) -> bool:
        """Whether the micro model, which knows drawn shapes only, is to see real images: a rehearsal."""
        return self.backbone == MICRO and not is_embedded(self.dataset)

    @property
    def pairs(self) -> dict[str, str]:
        """``opts`` by key; of a key that is given twice, the last value."""
        return dict(zip(self.opts[::2], self.opts[1::2], strict=True))

    @property
    def tail(self) -> str:
        """The tail in words."""
        return tail_in_words(self.tau, self.shots)

    @property
    def tail_name(self) -> str:
        """The tail in names of folders and files: ``tau0.25``, or ``natural``."""
        return self.tail.replace(" ", "")

    @property
    def folder(self) -> Path:
        """Where the records and tables of this data set go; colons of a world's name become dashes."""
        return self.output / self.dataset.replace(":", "-")


class _Parser(PairParser, Parser):
    """KEY VALUE pairs after METHOD DATASET TAU; wrong words raise ConfigError."""


def build_parser(prog: str = "scripts/run.sh") -> argparse.ArgumentParser:
    """The parser behind `scripts/run.sh` and `python -m cpt_plugin run`."""
    parser = _Parser(
        prog=prog,
        usage=f"{prog} METHOD DATASET TAU [options] [KEY VALUE ...]",
        description="Train on the long-tailed base classes, test on base and new classes (or by another\n"
        "protocol), and print one table: the method, its plain baseline and zero-shot CLIP.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("method", metavar="METHOD", nargs="?", help="e.g. maple_cpt, coop, zeroshot")
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        nargs="?",
        help="shapes[:CLASSSET[:DOMAIN]], eurosat, ... or your own: FOLDER, FILE.csv or FILE.yaml",
    )
    parser.add_argument(
        "tau",
        metavar="TAU",
        nargs="?",
        help=f"fewest / most images of a class, in (0, 1]; or {NATURAL}: all images of all classes, with the tail that "
        "they have (may be left out for your own data)",
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="configuration, e.g. OPTIM.LR 0.002")
    parser.add_argument("--seeds", default="1,2,3", metavar="A,B,...", help="default: 1,2,3")
    parser.add_argument(
        "--shots", metavar="N", help=f"images a class at most, or all (default: {SHOTS}; TAU {NATURAL}: all)"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="micro, RN50 ... ViT-L/14@336px, a weights file, open_clip:MODEL/WEIGHTS (docs/backbones.md; "
        "default: micro for shapes, ViT-B/16 otherwise)",
    )
    parser.add_argument(
        "--trust-weights", action="store_true", help="read a TorchScript file that is none of OpenAI's; it can run code"
    )
    parser.add_argument("--root", metavar="FOLDER", help="image folders (default: $DATA_ROOT, else data)")
    parser.add_argument(
        "--no-download",
        dest="download",
        action="store_false",
        help="say at once how to get missing images or weights, instead of downloading them",
    )
    parser.add_argument("--output", metavar="FOLDER", help="records and checkpoints (default: output)")
    parser.add_argument("--epochs", metavar="N", help="default: as configured for the method")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)} (default: {BASE_TO_NEW}; TAU {NATURAL}: {FEW_SHOT_ALL})",
    )
    parser.add_argument(
        "--variant", action="store_true", help="name the run's folder after its KEY VALUE pairs, beside the plain run"
    )
    parser.add_argument(
        "--baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also run the method without added parts, and zero-shot CLIP (default: yes)",
    )
    return parser


def parse_arguments(
    argv: Sequence[str], prog: str = "scripts/run.sh", repository: Path | None = None, supply: Supply = refuse
) -> RunArguments:
    """Check the words of a command.

    Missing images or weights are handed to ``supply``, or refused when the command says so.

    Raises ConfigError (one line) for words that mean nothing, DataError when images or weights are missing.
    """
    repository = repository or find_repository()
    parser = build_parser(prog)
    if {"-h", "--help"} & {*argv[1:]} and (meant := _meant_command(argv[0], repository)):
        raise ConfigError(f"{meant}; {prog} --help alone explains the main job")
    given, unknown = parser.parse_known_args(list(argv))
    flags = [word for word in unknown if word.startswith("-")]
    if flags:
        possible = [name for name in parser._option_string_actions if name.startswith("--")]
        name = flags[0].split("=")[0]
        raise ConfigError(
            f"unknown option '{name}'; nearest: '{nearest(name, possible)}'; possible: {', '.join(possible)}"
        )
    own_file = own_data(given.dataset, called_from(), dataset_names(repository)) if given.dataset else None
    if given.tau is None and own_file is None:
        meant = given.method and _meant_command(given.method, repository)
        needed = f"three words are needed, METHOD DATASET TAU, e.g. maple_cpt shapes 0.25 ({prog} --help)"
        raise ConfigError(f"{meant}; for the main job {needed}" if meant else needed)
    method = _method(given.method, given.dataset, repository)
    dataset = own_name(own_file) if own_file else parse_dataset(given.dataset, repository)
    tau, shots, protocol, opts = _sampling(given, own_file is not None)
    stages = [method.baseline.trainer_name.removesuffix(DPC.upper()), *([DPC.upper()] if method.dpc else [])]
    check_base_to_new(dataset, method.trainer_name, stages)
    embedded = is_embedded(dataset)
    root = data_root(given.root or own_root(own_file), repository)
    arguments = RunArguments(
        method=method,
        dataset=dataset,
        tau=tau,
        seeds=parse_seeds(given.seeds),
        shots=shots,
        backbone=_backbone(given.backbone, embedded),
        root=root,
        output=typed_folder(given.output, repository / "output"),
        epochs=None if given.epochs is None else parse_count("--epochs", given.epochs),
        baseline=given.baseline,
        opts=_with_names(parse_opts(opts, repository), (called_from(), own_root(own_file) or root, root)),
        protocol=protocol,
        variant=given.variant,
        trust_weights=given.trust_weights,
        dataset_file=own_file,
    )
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ConfigError(f"--output {arguments.output} is a file; give a folder")
    check_own_files(own_file or repository / "configs" / "datasets" / f"{dataset}.yaml", arguments.root)
    check_name(arguments.backbone)
    _check_vision(arguments)
    for missing in _missing(arguments, repository):
        if missing.pieces:
            (refuse if missing.offline or not given.download else supply)(missing)
    return arguments


def _meant_command(word: str, repository: Path) -> str:
    """What to say where the name of a command is meant by a word that is none; "" for the name of a method."""
    try:
        parse_method(word, repository)
    except ConfigError:
        near = nearest(word, COMMANDS, cutoff=0.6)
        return f"'{word}' is no command; nearest: '{near}'" if near else ""
    return ""


def _sampling(given: argparse.Namespace, is_own: bool) -> tuple[float, int, str, list[str]]:
    """tau, shots, protocol and the KEY VALUE pairs; TAU natural, or none for data of one's own, takes all there is.

    Raises ConfigError for words that mean nothing, or a tail that all images do not have.
    """
    tau, opts = given.tau, given.opts
    if is_own and (tau is None or _KEY.fullmatch(tau) or tau == "opts") and (tau or "").lower() != NATURAL:
        tau, opts = NATURAL, [*([] if tau in (None, "opts") else [tau]), *opts]
    natural = tau.lower() == NATURAL
    ratio = 1.0 if natural else parse_tau(tau)
    if natural and given.shots not in (None, "all"):
        raise ConfigError(
            f"TAU {NATURAL} takes every training image, so --shots {given.shots} has no meaning: leave it out, or give "
            f"a TAU in (0, 1] (1: up to {given.shots} images of every class)"
        )
    shots = given.shots or ("all" if natural else SHOTS)
    number = ALL_IMAGES if shots == "all" else parse_count("--shots", shots)
    if number == ALL_IMAGES and ratio != 1:
        raise ConfigError(
            f"--shots all takes every training image, with the tail that the data have: give TAU {NATURAL}, not {tau}; "
            f"for a tail of {tau} give the images of the largest class, --shots N"
        )
    return ratio, number, parse_protocol(given.protocol or (FEW_SHOT_ALL if natural else BASE_TO_NEW)), opts


def _with_names(opts: Sequence[str], places: Sequence[Path]) -> tuple[str, ...]:
    """The pairs, in which a file of class names has an absolute path; Raises DataError where there is none."""
    words = list(opts)
    for position in range(0, len(words), 2):
        if words[position] == CLASS_NAMES and (value := words[position + 1].strip("'\"")):
            words[position + 1] = str(found_names(value, places))
    return tuple(words)


def _method(text: str, dataset: str, repository: Path) -> Method:
    """The method; Raises ConfigError, in other words where it and the data set stand in each other's place."""
    try:
        return parse_method(text, repository)
    except ConfigError as error:
        try:
            parse_method(dataset, repository)
            if not text.endswith(YAML_SUFFIXES):
                parse_dataset(text, repository)
        except ConfigError:
            meant = _meant_command(text, repository)
            raise ConfigError(f"{error}; {meant}" if meant else str(error)) from None
        raise ConfigError(
            f"'{text}' is a data set and '{dataset}' a method; the method comes first: {dataset} {text}"
        ) from error


def parse_opts(words: Sequence[str], repository: Path | None = None) -> tuple[str, ...]:
    """Check `KEY VALUE ...`; values and a method's own keys are checked once the configuration is assembled.

    Raises ConfigError for a word that is no key, an unknown key, one without a value or with its own argument.
    """
    pairs = tuple(words)
    for key in pairs[::2]:
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"'{key}' is no configuration key: KEY VALUE pairs follow TAU, e.g. OPTIM.LR 0.002"
            )
        if key in _OWNED_KEYS:
            raise ConfigError(f"{key} is set by {_OWNED_KEYS[key]}, not as a configuration key")
        check_key(key, added_parts(repository))
    if len(pairs) % 2:
        raise ConfigError(f"configuration key {pairs[-1]} has no value: keys and values come in pairs")
    return pairs


def _check_vision(arguments: RunArguments) -> None:
    """Raise ConfigError for visual prompts on a model whose name says that it is a ResNet; nothing is fetched."""
    depth = arguments.method.visual_depth
    if isinstance(depth, str):
        given = dict(zip(arguments.opts[::2], arguments.opts[1::2], strict=True))
        depth = 0 if given.get(depth) == "0" else 1
    if depth and is_resnet(arguments.backbone):
        raise ConfigError(f"{arguments.method.name}: {no_visual_prompts(arguments.backbone)}")


def _backbone(given: str | None, embedded: bool) -> str:
    """Name of a model, in which the path of a weights file is absolute."""
    name = given or (MICRO if embedded else "ViT-B/16")
    parts = open_clip_name(name)
    if parts is not None:
        file = typed_folder(parts.weights, parts.weights)
        return f"{OPEN_CLIP}{parts.model}/{file}" if file.is_file() else name
    path = typed_folder(name, name)
    return str(path) if path.is_file() else name


def _missing(arguments: RunArguments, repository: Path) -> Iterator[Lacking]:
    """What is not there of each data set of the protocol, and, told with the first one, of the weights."""
    first, *others = dict.fromkeys(task.dataset for task in tasks(arguments.protocol, arguments.dataset))
    yield lacking(first, arguments.root, arguments.backbone, arguments.opts)
    for name in others:
        yield replace(lacking(parse_dataset(name, repository), arguments.root, MICRO, arguments.opts), weights=())


def main(argv: Sequence[str] | None = None) -> int:
    """Check only: exit status 0 when the command may go on, 2 with a line or a screen on stderr when not."""
    return attended(lambda: _check(sys.argv[1:] if argv is None else argv))


def _check(argv: Sequence[str]) -> int:
    try:
        parse_arguments(argv, supply=announce)
    except CPTError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
