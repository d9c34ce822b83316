from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin import openai_weights
from cpt_plugin.cli import arguments, materials
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.words import parse_seeds
from cpt_plugin.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]

BLOCK = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'yacs', 'PIL', 'tqdm', 'faiss')));"


def check(*words, **environment):
    """The check as run.sh does it, in a Python without site-packages and with the heavy names blocked."""
    code = f"{BLOCK} from cpt_plugin.cli.arguments import main; sys.exit(main(sys.argv[1:]))"
    variables = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CPT_", "DATA_"))
    }
    return subprocess.run(
        [sys.executable, "-S", "-s", "-c", code, *words],
        cwd=ROOT,
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("maple_cptt shapes 0.25", "unknown method 'maple_cptt'; nearest: 'maple_cpt'"),
        ("maple_cpt shapess 0.25", "unknown data set 'shapess'; nearest: 'shapes'"),
        ("maple_cpt shapes:tripels 0.25", "'triples'"),
        ("maple_cpt shapes 0", "(0, 1]"),
        ("maple_cpt shapes -0.5", "(0, 1]"),
        ("maple_cpt shapes 0.25 --seed 1", "unknown option '--seed'; nearest: '--seeds'"),
        ("maple_cpt shapes 0.25 OPTIM.LR", "OPTIM.LR has no value"),
        ("maple_cpt shapes", "METHOD DATASET TAU"),
        ("shapes maple_cpt 0.25", "the method comes first: maple_cpt shapes"),
        ("mine.yaml coop 0.25", "the method comes first: coop mine.yaml"),
    ],
)
def test_wrong_words_get_one_line_and_status_2_before_anything_is_installed(words, message):
    done = check(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_good_words_pass_silently_before_anything_is_installed():
    done = check("maple_cpt", "shapes", "0.25", "--seeds", "0,4294967295", "opts", "OPTIM.LR", "0.1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_images_are_explained_on_one_screen(tmp_path):
    words = ("maple_cpt", "eurosat", "0.25", "--root", str(tmp_path), "--no-download")
    done = check(*words, HOME=str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path / "eurosat" / "2750") in done.stderr
    assert str(tmp_path / ".cache" / "clip" / "ViT-B-16.pt") in done.stderr
    assert "--root" in done.stderr
    assert "EuroSAT.zip" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") < 25


def test_missing_weights_are_explained(tmp_path):
    words = ("coop", "shapes", "1", "--backbone", "ViT-B/16")
    done = check(*words, "MODEL.BACKBONE.DOWNLOAD", "False", HOME=str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path / ".cache" / "clip" / "ViT-B-16.pt") in done.stderr
    assert "curl" in done.stderr
    assert done.stderr.count("\n") < 25
    assert check(*words, "--no-download", HOME=str(tmp_path)).stderr == done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ViT-B-16.pt").touch()
    there = check(*words, "MODEL.BACKBONE.PATH", str(elsewhere), HOME=str(tmp_path))
    assert (there.returncode, there.stderr) == (0, "")


def test_missing_weights_name_file_address_and_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path)
    file, url, sha256 = materials.missing_weights("RN50x4")
    assert file == tmp_path / "RN50x4.pt"
    assert url.startswith("https://")
    assert url.split("/")[-2:] == [sha256, "RN50x4.pt"]
    file.touch()
    there = ("RN50x4", "micro", str(file), "open_clip:ViT-B-16/laion2b_s34b_b88k")
    assert [materials.missing_weights(name) for name in there] == [None] * 4


def test_images_and_weights_that_are_there_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = tmp_path / ".cache" / "clip" / "ViT-L-14-336px.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (tmp_path / "data" / "eurosat" / "2750").mkdir(parents=True)
    (tmp_path / "data" / "eurosat" / "2750" / "Forest").mkdir()
    with pytest.raises(DataError, match=r"missing:\n  \S*split_zhou_EuroSAT\.json\nget"):
        parse_arguments(["coop", "eurosat", "1", "--root", str(tmp_path / "data"), "--backbone", str(weights)])
    (tmp_path / "data" / "eurosat" / "split_zhou_EuroSAT.json").touch()
    words = ["coop", "eurosat", "1", "--root", str(tmp_path / "data"), "--backbone"]
    assert parse_arguments([*words, "ViT-L/14@336px"]).dataset == "eurosat"
    assert parse_arguments([*words, str(weights)]).backbone == str(weights)
    with pytest.raises(DataError, match="ViT-B-16"):
        parse_arguments(words[:-1])
    given = []
    assert parse_arguments(words[:-1], supply=given.append).backbone == "ViT-B/16"
    assert [piece.file.name for piece in given[0].pieces] == ["ViT-B-16.pt"]
    for by_hand in (["--no-download"], ["MODEL.BACKBONE.DOWNLOAD", "False"]):
        with pytest.raises(DataError, match="ViT-B-16"):
            parse_arguments([*words[:-1], *by_hand], supply=given.append)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    assert parse_arguments(["coop", "eurosat", "1", "--backbone", str(weights)]).root == tmp_path / "data"


def test_defaults(monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    args = parse_arguments(["maple_cpt", "shapes", "0.25"])
    assert args.method.name == "maple_cpt"
    assert (args.dataset, args.tau, args.seeds, args.shots) == ("shapes", 0.25, (1, 2, 3), 16)
    assert (args.backbone, args.epochs, args.baseline, args.opts) == ("micro", None, True, ())
    assert (args.root, args.output) == (ROOT / "data", ROOT / "output")


def test_everything_given_in_any_order():
    words = "--seeds 4,0 coop_cpt --epochs 3 shapes 0.06 --shots 8 --no-baseline OPTIM.LR 0.1 --output /x"
    args = parse_arguments([*words.split(), "CPT.CLUSTER_SEED", "-1"])
    assert (args.seeds, args.epochs, args.shots, args.baseline) == ((4, 0), 3, 8, False)
    assert args.opts == ("OPTIM.LR", "0.1", "CPT.CLUSTER_SEED", "-1")
    assert args.folder == Path("/x/shapes")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("OPTIM.LRR", "nearest: 'OPTIM.LR'"),
        ("CPTT.WEIGHT_ETF", "unknown configuration key 'CPTT.WEIGHT_ETF'"),
        ("TEST.NO_TEST", "set by the protocol"),
        ("TEST.SPLIT", "set by the protocol"),
        ("DATASET.WORLD", "set by DATASET"),
        ("OPTIM.MAX_EPOCH", "set by --epochs"),
        ("RESUME", "what the output folder holds"),
        ("TRAINER.DPC.STAGE_ONE", "set by METHOD"),
    ],
)
def test_keys_that_are_unknown_or_would_falsify_a_record_are_refused(key, message):
    with pytest.raises(ConfigError, match=message):
        parse_arguments(["coop", "shapes", "1", key, "1"])


def test_weights_file_counts_from_where_the_command_was_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("CPT_CALLED_FROM", str(tmp_path))
    (tmp_path / "own.npz").touch()
    assert parse_arguments(["coop", "shapes", "1", "--backbone", "own.npz"]).backbone == str(tmp_path / "own.npz")


def test_open_clip_names(tmp_path, monkeypatch):
    monkeypatch.setenv("CPT_CALLED_FROM", str(tmp_path))
    words = ["coop", "shapes", "1", "--backbone"]
    tag = "open_clip:ViT-B-16/laion2b_s34b_b88k"
    assert parse_arguments([*words, tag]).backbone == tag
    (tmp_path / "own.safetensors").touch()
    resolved = f"open_clip:ViT-B-16/{tmp_path}/own.safetensors"
    assert parse_arguments([*words, "open_clip:ViT-B-16/own.safetensors"]).backbone == resolved
    assert parse_arguments([*words, resolved]).backbone == resolved
    for wrong in ("open_clip:ViT-B-16", "open_clip:/tag", "open_clip:ViT-B-16/"):
        with pytest.raises(ConfigError, match="is not open_clip:MODEL/WEIGHTS"):
            parse_arguments([*words, wrong])
    with pytest.raises(DataError, match=r"nowhere\.bin does not exist"):
        parse_arguments([*words, "open_clip:ViT-B-16/nowhere.bin"])


def test_trust_is_given_by_its_own_option():
    assert not parse_arguments(["coop", "shapes", "1"]).trust_weights
    assert parse_arguments(["coop", "shapes", "1", "--trust-weights"]).trust_weights
    with pytest.raises(ConfigError, match="is set by --trust-weights"):
        parse_arguments(["coop", "shapes", "1", "MODEL.BACKBONE.TRUST", "True"])


def test_relative_folders_count_from_where_the_command_was_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("CPT_CALLED_FROM", str(tmp_path))
    args = parse_arguments(["coop", "shapes", "1", "--output", "here", "--root", "../there"])
    assert args.output == tmp_path / "here"
    assert args.root == tmp_path.parent / "there"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 1,1", "twice"),
        ("--seeds 1,,2", "whole number"),
        ("--seeds -1", "whole number"),
        ("--seeds 4294967296", "whole number"),
        ("--seeds 1.5", "whole number"),
        ("--shots 0", "--shots"),
        ("--shots many", "--shots"),
        ("--epochs 0", "--epochs"),
        ("--backbone ViT-B16", "nearest: 'ViT-B/16'"),
        ("SEED 3", "--seeds"),
        ("DATASET.IMBALANCE_TAU 0.1", "TAU"),
        ("optim.lr 0.1", "no configuration key"),
        ("0.1 OPTIM.LR", "no configuration key"),
        ("--output README.md/x --bogus", "--bogus"),
    ],
)
def test_refused_options(words, message):
    with pytest.raises(ConfigError) as caught:
        parse_arguments(["maple", "shapes", "1", *words.split()])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        parse_arguments(["maple", "shapes", "1", "--output", str(tmp_path / "file")])


def test_seeds_keep_their_order():
    assert parse_seeds("3, 1,2") == (3, 1, 2)


def test_a_line_break_in_a_word_does_not_break_the_line(capsys):
    assert arguments.main(["ma\nple", "shapes", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "bash scripts/run.sh maple_cpt shapes 0.25" in text
    assert all(option in text for option in ("--seeds", "--shots", "--root", "--output", "--no-baseline"))


def test_every_manifest_has_a_configuration():
    from cpt_plugin.data.manifest import manifest_names
    from cpt_plugin.methods import dataset_names

    assert set(manifest_names()) <= set(dataset_names(ROOT))


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "x" * 5000, "\0", "circle"])
@pytest.mark.parametrize("option", ["--root", "--output", "--backbone"])
def test_paths_that_cannot_be_are_errors_of_ours(tmp_path, monkeypatch, option, text):
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CPT_CALLED_FROM", str(tmp_path))
    words = ["maple_cpt", "eurosat", "0.25", "--no-download", "--backbone", "micro", option, text]
    with pytest.raises((ConfigError, DataError)):
        parse_arguments(words)


def test_a_file_is_no_data_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        parse_arguments(["maple_cpt", "shapes", "0.25", "--root", str(tmp_path / "file")])


def test_the_command_that_is_named_can_be_pasted(tmp_path):
    root = tmp_path / "my data"
    done = ["maple_cpt", "eurosat", "0.25", "--root", str(root), "--no-download", "DATASET.SPLIT", "own"]
    with pytest.raises(DataError) as caught:
        parse_arguments([*done, "--backbone", "micro"])
    command = next(line for line in str(caught.value).splitlines() if line.startswith("then ")).split("or: ")[1]
    words = ["python", "-m", "cpt_plugin", "data", "get", "eurosat", "--root", str(root), "--own-split"]
    assert shlex.split(command) == words
