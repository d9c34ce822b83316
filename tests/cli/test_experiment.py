"""One run of the protocol: what it writes, and what it does when its folder is not empty."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path

import pytest
import torch

from cpt_plugin import locking, toolkit
from cpt_plugin.cli import run as pipeline
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.errors import CheckpointError, ClusterError, ConfigError, DataError, RecordError
from cpt_plugin.locking import only_process
from cpt_plugin.results import record as records
from tests.helpers.checkpoints import identical
from tests.helpers.read_only import read_only
from tests.helpers.tiny_world import BASE, COUNTS, NEW, TEST_IMAGES, TinyWorld, tiny_experiment, write_world
from tests.trainers.problems import raises_at, saved
from trainers import PROMPT_LEARNERS
from trainers._base import PromptTrainer

VOLATILE = ("timings", "created", "git")
METHODS = ("coop_cpt", "maple")
STEPS = 4
ORIGINAL_STEP = PromptTrainer.forward_backward


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """An undisturbed run of each method; nobody may change these folders."""
    runs = {}
    for method in (*METHODS, "zeroshot"):
        experiment = tiny_experiment(root, tmp_path_factory.mktemp(method), method)
        runs[method] = (experiment, experiment.execute())
    return runs


@pytest.fixture
def no_step(monkeypatch):
    """Training a step is an error."""

    def forward_backward(self, batch):
        raise AssertionError("a step was trained")

    monkeypatch.setattr(PromptTrainer, "forward_backward", forward_backward)


def interrupted(experiment, step, error=KeyboardInterrupt):
    """Execute until just before a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(step, PromptTrainer.forward_backward, error))
        with pytest.raises(error):
            experiment.execute()


def lasting(record):
    """A record without what differs from run to run."""
    return {key: value for key, value in dataclasses.asdict(record).items() if key not in VOLATILE}


def copy_run(experiment, output):
    """The same experiment with its files in another output folder."""
    copy = Experiment(experiment.method, experiment.seed, dataclasses.replace(experiment.arguments, output=output))
    for path in experiment.folder.rglob("*"):
        if path.is_file():
            target = copy.folder / path.relative_to(experiment.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def with_opts(experiment, *opts, **changes):
    arguments = dataclasses.replace(experiment.arguments, opts=(*experiment.arguments.opts, *opts), **changes)
    return Experiment(experiment.method, experiment.seed, arguments)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- the record --------------------------------------------------------------------------------------------------


def test_record_is_complete_and_is_the_one_on_disk(root, finished):
    experiment, outcome = finished["coop_cpt"]
    record = outcome.record
    assert outcome.status == "new"
    assert records.load(experiment.record_file) == record
    assert (record.method, record.prompt_learner, record.regularizers) == ("coop_cpt", "coop", ("cpt",))
    assert (record.dataset, record.seed, record.shots, record.class_order) == ("shapes", 1, 12, "label")
    assert (record.tau, record.realized_tau) == (0.1, 1 / 12)
    assert (record.toolkit, record.device, record.precision) == ("embedded", "cpu", "fp32")
    assert record.backbone.name == str(root / "tiny.pt")
    assert set(record.losses) == {"loss", "loss_reg", "loss_etf", "loss_cc", "loss_rs"}
    assert record.losses["loss_reg"] == pytest.approx(
        sum(record.losses[f"loss_{part}"] for part in ("etf", "cc", "rs")), rel=1e-6
    )
    assert 0 < record.timings["train"] < record.timings["total"]
    assert len(record.cluster_hash) == len(record.config_hash) == len(record.evaluations["base"].split_hash) == 64
    assert record.evaluations["base"].split_hash != record.evaluations["new"].split_hash
    assert record.config["DATASET.IMBALANCE_TAU"] == 0.1
    assert record.config["CPT.CLUSTER_SIZE"] == 2
    assert {"torch", "numpy"} <= set(record.versions)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*", record.created)


def test_classes_and_accuracies_fit_together(finished):
    _, outcome = finished["maple"]
    record = outcome.record
    parts = [record.evaluations[name].per_class for name in ("base", "new")]
    assert [[c.name for c in part] for part in parts] == [list(BASE), list(NEW)]
    assert all(c.total == TEST_IMAGES for part in parts for c in part)
    base, new = (100 * sum(c.correct for c in part) / (TEST_IMAGES * len(part)) for part in parts)
    assert (record.accuracy.base, record.accuracy.new) == pytest.approx((base, new))
    assert pytest.approx(2 * base * new / (base + new) if base + new else 0) == record.accuracy.H


def test_groups_follow_the_training_counts(root, finished):
    experiment, outcome = finished["coop_cpt"]
    assert toolkit.DataManager(experiment.config("base")).class_counts == COUNTS
    groups, classes = outcome.record.groups, outcome.record.evaluations["base"].per_class
    members = {"head": (0, 1), "mid": (2,), "tail": (3,), "many": (0,), "medium": (1,), "few": (2, 3)}
    for name, labels in members.items():
        mean = sum(100 * classes[label].correct / classes[label].total for label in labels) / len(labels)
        assert groups[name].classes == len(labels)
        assert groups[name].accuracy == pytest.approx(mean)
    worst = min(100 * c.correct / c.total for c in classes)
    assert outcome.record.worst_class.accuracy == pytest.approx(worst)


def test_random_class_order_moves_the_groups_with_it(root, tmp_path, monkeypatch):
    """Class c gets c of 4 test images right, so that every group has an accuracy of its own."""
    monkeypatch.setattr("cpt_plugin.cli.experiment.evaluation", lambda task, trainer: records.Evaluation.of(
        task.dataset, task.classes,
        [records.ClassResult(n, c, 4) for c, n in enumerate(trainer.dm.dataset.classnames)], trainer.dm.split_hash,
    ))  # fmt: skip
    experiment = tiny_experiment(root, tmp_path, "zeroshot", "DATASET.CLASS_ORDER", "random")
    groups = experiment.execute().record.groups
    counts = toolkit.DataManager(experiment.config("base")).class_counts
    assert sorted(counts, reverse=True) == COUNTS != counts
    first, second, third, fourth = (counts.index(count) for count in COUNTS)
    members = {"head": (first, second), "mid": (third,), "tail": (fourth,), "few": (third, fourth), "many": (first,)}
    for name, labels in members.items():
        assert groups[name].accuracy == pytest.approx(sum(25 * label for label in labels) / len(labels))


def test_both_halves_are_evaluated_with_the_trained_prompts(root, tmp_path, monkeypatch):
    seen = []
    evaluate = PromptTrainer.test

    def test(self, split=None):
        prompts = {key: value.clone() for key, value in self.model.prompt_learner.state_dict().items()}
        seen.append((self.dm.dataset.classnames, prompts))
        return evaluate(self, split)

    monkeypatch.setattr(PromptTrainer, "test", test)
    experiment = tiny_experiment(root, tmp_path, "maple_cpt")
    experiment.execute()
    assert [names for names, _ in seen] == [list(BASE), list(NEW)]
    assert all(identical(prompts, saved(experiment.folder)["state_dict"]) for _, prompts in seen)


def test_zero_shot_has_a_record_without_losses_and_clusters(finished):
    _, outcome = finished["zeroshot"]
    assert outcome.record.losses == {}
    assert outcome.record.cluster_hash == ""
    assert outcome.record.regularizers == ()


def test_folder_names(root):
    experiment = tiny_experiment(root, Path("/out"), "coop_cpt")
    other = Experiment(experiment.method, 2, dataclasses.replace(experiment.arguments, dataset="shapes:triples:tint"))
    assert experiment.folder == Path("/out/shapes/coop_cpt/tau0.1/seed1")
    assert other.folder == Path("/out/shapes-triples-tint/coop_cpt/tau0.1/seed2")


def test_log_has_what_the_field_s_parser_looks_for(finished):
    """parse_test_res.py of CoOp: the last "* accuracy: N%" after "Finish training", or after "=> result"."""
    experiment, outcome = finished["coop_cpt"]
    lines = (experiment.folder / "log.txt").read_text().splitlines()
    new = (experiment.folder / "new" / "log.txt").read_text().splitlines()
    for after, accuracy in (
        (lines[lines.index("Finish training") :], outcome.record.accuracy.base),
        (new[new.index("=> result") :], outcome.record.accuracy.new),
    ):
        for keyword in ("accuracy", "error", "macro_f1"):
            found = [match for line in after if (match := re.search(rf"\* {keyword}: ([\.\deE+-]+)%", line))]
            assert len(found) == 1
            assert keyword != "accuracy" or float(found[-1][1]) == pytest.approx(accuracy, abs=0.051)
    assert "** Config **" in lines
    assert any(line.startswith("torch 2") for line in lines)
    step = r"epoch \[1/2\] batch \[\d/2\] time .* data .* loss \S+ \(\S+\) acc \S+ \(\S+\).* lr \S+ eta \d:\d\d:\d\d"
    assert any(re.fullmatch(step, line) for line in lines)
    assert any(line.startswith("Toolkit: embedded; coop_cpt, seed 1, 20 training images") for line in lines)
    assert "=> result" in lines


# -- finished, interrupted, half written ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "zeroshot"])
def test_finished_run_is_skipped_and_nothing_is_touched(finished, no_step, method):
    experiment, outcome = finished[method]
    before = content(experiment.folder)
    again = experiment.execute()
    assert again.status == "finished before"
    assert again.record == outcome.record
    assert content(experiment.folder) == before


@pytest.mark.parametrize("step", range(1, STEPS))
@pytest.mark.parametrize("method", METHODS)
def test_interrupted_run_goes_on_and_ends_the_same(root, tmp_path, finished, method, step):
    experiment = tiny_experiment(root, tmp_path, method)
    interrupted(experiment, step)
    assert not experiment.record_file.exists()
    outcome = experiment.execute()
    reference, wanted = finished[method]
    assert outcome.status == "resumed"
    assert lasting(outcome.record) == lasting(wanted.record)
    assert identical(saved(experiment.folder), saved(reference.folder))
    assert not list(experiment.folder.glob("resume/*"))


def test_interrupted_before_the_first_state_starts_again(root, tmp_path, finished):
    experiment = tiny_experiment(root, tmp_path, "maple")
    interrupted(experiment, 0)
    outcome = experiment.execute()
    assert outcome.status == "new"
    assert lasting(outcome.record) == lasting(finished["maple"][1].record)


@pytest.mark.parametrize("method", METHODS)
def test_finished_training_without_a_record_is_only_evaluated(tmp_path, finished, no_step, method):
    reference, wanted = finished[method]
    experiment = copy_run(reference, tmp_path)
    experiment.record_file.unlink()
    outcome = experiment.execute()
    assert outcome.status == "resumed"
    assert lasting(outcome.record) == lasting(wanted.record)
    assert outcome.record.losses == wanted.record.losses != {}
    assert outcome.record.timings["train"] > 0.5 * wanted.record.timings["train"], "saved, not measured anew"
    assert "Resumed from the finished run" in (experiment.folder / "log.txt").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_killed_between_the_last_epoch_and_the_record(root, tmp_path, finished, no_step, method):
    """The states are still there; everything is in them."""
    reference, wanted = finished[method]
    experiment = tiny_experiment(root, tmp_path, method)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", ORIGINAL_STEP)
        patch.setattr(PromptTrainer, "test", interrupt)
        with pytest.raises(KeyboardInterrupt):
            experiment.execute()
    assert list(experiment.folder.glob("resume/state-*"))
    outcome = experiment.execute()
    assert outcome.status == "resumed"
    assert lasting(outcome.record) == lasting(wanted.record)
    assert identical(saved(experiment.folder), saved(reference.folder))
    assert not (experiment.folder / "resume").exists()


def interrupt(self, split=None):
    raise KeyboardInterrupt


def test_best_model_on_validation_images_serves_both_halves(root, tmp_path, monkeypatch):
    """And an evaluation made later uses the same model."""
    options = ("TEST.FINAL_MODEL", "best_val", "OPTIM.LR", "5.0")
    experiment = tiny_experiment(root, tmp_path, "coop", *options)
    loaded = []
    load = PromptTrainer.load_model
    monkeypatch.setattr(
        PromptTrainer, "load_model", lambda self, d, epoch=None: (loaded.append(epoch), load(self, d, epoch=epoch))[1]
    )
    record = experiment.execute().record
    assert loaded == [None, None], "base and new are both tested with model-best"
    experiment.record_file.unlink()
    assert lasting(experiment.execute().record) == lasting(record)


def test_temporary_file_of_a_killed_first_save_is_no_state(root, tmp_path, finished):
    experiment = tiny_experiment(root, tmp_path, "maple")
    interrupted(experiment, 0)
    (experiment.folder / "resume").mkdir(exist_ok=True)
    (experiment.folder / "resume" / "state-000000001.pth.tar.tmp-4242").write_bytes(b"half")
    outcome = experiment.execute()
    assert outcome.status == "new"
    assert lasting(outcome.record) == lasting(finished["maple"][1].record)


def test_second_process_on_the_same_run_waits_and_finds_it_finished(finished, tmp_path, monkeypatch, capsys):
    experiment = copy_run(finished["maple"][0], tmp_path)
    monkeypatch.setattr(locking, "POLL_SECONDS", 0.01)
    outcomes = []
    second = threading.Thread(target=lambda: outcomes.append(experiment.execute()))
    with only_process(experiment.folder):
        second.start()
        second.join(0.5)
        assert outcomes == []
    second.join(30)
    assert [outcome.status for outcome in outcomes] == ["finished before"]
    assert f"another process is working on {experiment.folder}: waiting" in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    experiment = tiny_experiment(root, tmp_path / "file", "maple")
    with pytest.raises(DataError, match=f"Not a directory; results go below --output {tmp_path}/file$"):
        experiment.execute()


def test_damaged_final_checkpoint_is_set_aside_and_trained_again(tmp_path, finished):
    reference, wanted = finished["maple"]
    experiment = copy_run(reference, tmp_path)
    experiment.record_file.unlink()
    (path,) = experiment.folder.glob("*/model.pth.tar-2")
    damaged = path.read_bytes()[:-1]
    path.write_bytes(damaged)
    outcome = experiment.execute()
    assert outcome.status == "new"
    assert lasting(outcome.record) == lasting(wanted.record)
    assert path.with_name("model.pth.tar-2.corrupt").read_bytes() == damaged
    assert identical(saved(experiment.folder), saved(reference.folder))


def test_damaged_newest_state_falls_back_to_the_one_before(root, tmp_path, finished):
    experiment = tiny_experiment(root, tmp_path, "coop_cpt")
    interrupted(experiment, 3)
    newest = max(experiment.folder.glob("resume/state-*"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert lasting(experiment.execute().record) == lasting(finished["coop_cpt"][1].record)


def test_only_damaged_states_are_an_error_not_a_new_start(root, tmp_path):
    experiment = tiny_experiment(root, tmp_path, "coop_cpt")
    interrupted(experiment, 1)
    for path in experiment.folder.glob("resume/state-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="resume"):
        experiment.execute()
    with pytest.raises(CheckpointError, match=f"damaged .*delete {experiment.folder}"):
        experiment.execute()


@pytest.mark.parametrize("method", [*METHODS, "zeroshot"])
def test_finished_run_is_shown_from_a_read_only_file_system(tmp_path, finished, no_step, method):
    reference, wanted = finished[method]
    experiment = copy_run(reference, tmp_path)
    for lock in experiment.folder.glob(".lock"):
        lock.unlink()
    before = content(experiment.folder)
    with read_only(tmp_path):
        again = experiment.execute()
    assert (again.status, again.record) == ("finished before", wanted.record)
    assert content(experiment.folder) == before


def test_unfinished_run_on_a_read_only_file_system_is_refused_in_words(root, tmp_path):
    experiment = tiny_experiment(root, tmp_path, "maple")
    interrupted(experiment, 1)
    place = f"^{experiment.folder}/.lock: Read-only file system; results go below --output {tmp_path}$"
    with read_only(tmp_path), pytest.raises(DataError, match=place):
        experiment.execute()
    fresh = tiny_experiment(root, tmp_path / "new", "maple")
    with read_only(tmp_path), pytest.raises(DataError, match="Read-only file system; results go below --output"):
        fresh.execute()


# -- another run in the same folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("OPTIM.LR", "0.5"), r"OPTIM\.LR: 0\.02 != 0\.5"),
        (("CPT.WEIGHT_ETF", "1.0"), r"CPT\.WEIGHT_ETF: 0\.25 != 1\.0"),
        (("TRAINER.COOP.CTX_INIT", "art", "OPTIM.LR", "0.5"), r'OPTIM\.LR: .*; TRAINER\.COOP\.CTX_INIT: .* != "art"'),
    ],
)
def test_changed_configuration_is_refused_with_keys_and_both_values(finished, no_step, opts, message):
    experiment, _ = finished["coop_cpt"]
    before = content(experiment.folder)
    with pytest.raises(ConfigError, match=message) as error:
        with_opts(experiment, *opts).execute()
    assert str(experiment.folder) in str(error.value)
    assert "Add --variant (a folder of their own for these settings), or give another --output" in str(error.value)
    assert content(experiment.folder) == before


def test_changed_configuration_is_seen_without_the_data(finished, no_step):
    experiment, _ = finished["coop_cpt"]
    elsewhere = with_opts(experiment, root=Path("/nowhere"))
    elsewhere.check_folder()
    with pytest.raises(ConfigError, match=r"holds another run .*CPT\.WEIGHT_ETF: 0\.25 != 0\.1. Add --variant"):
        with_opts(elsewhere, "CPT.WEIGHT_ETF", "0.1").check_folder()
    with_opts(elsewhere, "CPT.WEIGHT_ETF", "0.1", variant=True).check_folder()
    with_opts(elsewhere, "TRAIN.PRINT_FREQ", "3").check_folder()
    with_opts(elsewhere, "CPT.WEIGHT_ETF", "0.1").check_folder(by_seed=["CPT.WEIGHT_ETF"])


def test_a_command_names_all_folders_in_the_way_before_anything_is_trained(finished, tmp_path, no_step, capsys):
    """Those of the baseline and the method, of two seeds; zero-shot does not read the learning rate."""
    for method in ("zeroshot", "coop_cpt"):
        reference = finished[method][0]
        for seed in (1, 2):
            copied = copy_run(reference, tmp_path).folder
            copied.with_name(f"seed{seed}").mkdir(exist_ok=True)
            (copied.with_name(f"seed{seed}") / "run.json").write_bytes((copied / "run.json").read_bytes())
    arguments = with_opts(finished["coop_cpt"][0], "OPTIM.LR", "0.5", output=tmp_path, seeds=(1, 2)).arguments
    for seed in (1, 2):
        path = tmp_path / "shapes" / "coop_cpt" / "tau0.1" / f"seed{seed}" / "run.json"
        claimed = json.loads(path.read_text())
        claimed["config"]["SEED"] = seed
        path.write_text(json.dumps(claimed))
    before = content(tmp_path)
    assert pipeline.run(dataclasses.replace(arguments, root=Path("/nowhere"))) == 2
    printed = capsys.readouterr()
    places = ", ".join(str(tmp_path / "shapes" / "coop_cpt" / "tau0.1" / f"seed{seed}") for seed in (1, 2))
    assert printed.out == ""
    assert printed.err == (
        f"error: 2 folders hold other runs than wanted (there != now): {places}: OPTIM.LR: 0.02 != 0.5. "
        "Add --variant (a folder of their own for these settings), or give another --output, or delete what is named.\n"
    )
    assert content(tmp_path) == before


def test_changed_arguments_are_refused_too(finished):
    experiment, _ = finished["coop_cpt"]
    with pytest.raises(ConfigError, match=r"OPTIM\.MAX_EPOCH: 2 != 3"):
        with_opts(experiment, epochs=3).execute()
    with pytest.raises(ConfigError, match=r"DATASET\.NUM_SHOTS: 12 != 6"):
        with_opts(experiment, shots=6).execute()


def test_what_changes_no_result_may_change(finished):
    experiment, outcome = finished["coop_cpt"]
    again = with_opts(experiment, "TRAIN.PRINT_FREQ", "3", "DATALOADER.NUM_WORKERS", "2").execute()
    assert again.record == outcome.record


def test_changed_images_are_refused(tmp_path, finished):
    """An image more: same configuration, other split."""
    reference, _ = finished["zeroshot"]
    moved = write_world(tmp_path / "data")
    experiment = copy_run(reference, tmp_path / "output")
    same = with_opts(experiment, root=moved)
    assert same.execute().status == "finished before", "the data may move"
    extra = moved / TinyWorld.dataset_dir / "test"
    (extra / "0_99.png").write_bytes((extra / "0_00.png").read_bytes())
    with pytest.raises(ConfigError, match=r"the images or their division changed since\. Give another --output, or"):
        same.execute()


def test_changed_images_of_the_new_classes_are_refused_and_evaluated_again(tmp_path, finished, no_step):
    """The training images are the same, so that the prompts can stay."""
    moved = write_world(tmp_path / "data")
    experiment = with_opts(copy_run(finished["maple"][0], tmp_path / "output"), root=moved)
    before = experiment.execute()
    assert before.status == "finished before"
    extra = moved / TinyWorld.dataset_dir / "test"
    (extra / "5_99.png").write_bytes((extra / "5_00.png").read_bytes())
    with pytest.raises(ConfigError, match=r"record\.json is of other data .*: new: the images or their division"):
        experiment.execute()
    experiment.record_file.unlink()
    after = experiment.execute().record.evaluations
    assert sum(c.total for c in after["new"].per_class) == 1 + sum(
        c.total for c in before.record.evaluations["new"].per_class
    )
    assert after["base"] == before.record.evaluations["base"]
    assert experiment.execute().status == "finished before"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"toolkit": "", "split_hash": 1, "config": []}', "\xff"])
def test_damaged_run_file_is_named_with_the_remedy(tmp_path, finished, text):
    experiment = copy_run(finished["zeroshot"][0], tmp_path)
    path = experiment.folder / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{path} is damaged.*delete the folder"):
        experiment.execute()


def test_damaged_record_is_named(tmp_path, finished):
    experiment = copy_run(finished["zeroshot"][0], tmp_path)
    experiment.record_file.write_text(experiment.record_file.read_text()[:-5])
    with pytest.raises(RecordError, match=str(experiment.record_file)):
        experiment.execute()


def test_a_setting_that_cannot_be_built_does_not_claim_the_folder(root, tmp_path):
    """Corrected, the same command must run."""
    experiment = tiny_experiment(root, tmp_path, "maple")
    with pytest.raises(ConfigError, match=r"depth 9.*1\.\.3"):
        with_opts(experiment, "TRAINER.MAPLE.PROMPT_DEPTH", "9").execute()
    assert experiment.execute().status == "new"
    experiment = tiny_experiment(root, tmp_path, "coop_cpt")
    with pytest.raises(ClusterError, match="99"):
        with_opts(experiment, "CPT.NUM_CLUSTERS", "99").execute()
    assert experiment.execute().status == "new"


def test_damaged_model_of_a_recorded_run_is_left_alone(tmp_path, finished, no_step):
    reference, wanted = finished["maple"]
    experiment = copy_run(reference, tmp_path)
    (path,) = experiment.folder.glob("*/model.pth.tar-2")
    path.write_bytes(b"half")
    assert experiment.execute().record == wanted.record
    assert path.read_bytes() == b"half"


def test_unfinished_run_goes_on_when_a_plug_in_was_added(root, tmp_path, finished, monkeypatch):
    experiment = tiny_experiment(root, tmp_path, "maple")
    interrupted(experiment, 2)
    coop = {**PROMPT_LEARNERS["coop"].defaults, "NEW_KEY": 1}
    monkeypatch.setattr(PROMPT_LEARNERS["coop"], "defaults", coop)
    outcome = experiment.execute()
    assert outcome.status == "resumed"
    assert lasting(outcome.record) == lasting(finished["maple"][1].record)


def test_baselines_are_shared_between_commands(root, tmp_path, finished, no_step):
    """Options of a regularizer and of another prompt learner are no part of a plain run."""
    for method in ("maple", "zeroshot"):
        reference, wanted = finished[method]
        other = with_opts(reference, "CPT.WEIGHT_ETF", "3.0", "TRAINER.COOP.N_CTX", "7")
        assert other.execute().record == wanted.record
    with_opts(finished["zeroshot"][0], "OPTIM.LR", "0.7").execute()
    assert not any(key.startswith(("CPT.", "TRAINER.COOP")) for key in finished["maple"][1].record.config)


def test_class_specific_contexts_are_refused_before_training(root, tmp_path, no_step):
    with pytest.raises(ConfigError, match="CSC True"):
        tiny_experiment(root, tmp_path, "coop", "TRAINER.COOP.CSC", "True").execute()


def test_unknown_key_names_the_nearest(root, tmp_path):
    with pytest.raises(ConfigError, match=r"CPT\.WEIGHT_ETFF.*CPT\.WEIGHT_ETF'"):
        tiny_experiment(root, tmp_path, "coop_cpt", "CPT.WEIGHT_ETFF", "1").execute()
    assert not list(tmp_path.iterdir())


def test_unreadable_image_is_named_and_the_run_goes_on_when_it_is_back(tmp_path, finished):
    reference, wanted = finished["coop_cpt"]
    moved = write_world(tmp_path / "data")
    experiment = with_opts(reference, root=moved, output=tmp_path / "output")
    victim = moved / TinyWorld.dataset_dir / "test" / "5_02.png"
    intact = victim.read_bytes()
    victim.write_bytes(b"no image")
    with pytest.raises(DataError, match=str(victim)):
        experiment.execute()
    victim.write_bytes(intact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(0, PromptTrainer.forward_backward, AssertionError))
        outcome = experiment.execute()
    assert outcome.record.accuracy == wanted.record.accuracy


@pytest.mark.parametrize(
    ("method", "opts", "message"),
    [
        ("coop_cpt", ("CPT.WEIGHT_ETF", "-1"), r"CPT\.WEIGHT_ETF must be a finite number"),
        ("coop", ("OPTIM.LR", "-1"), r"OPTIM\.LR must be at least 0"),
        ("coop", ("OPTIM.NAME", "sdg"), r"OPTIM\.NAME must be one of adam, .*, sgd, not 'sdg'"),
        ("coop", ("TRAINER.COOP.N_CTX", "3", "TRAINER.COOP.CTX_INIT", "a photo"), "N_CTX is 3"),
        ("coop_dpc", ("TRAINER.DPC.TOP_K", "1"), r"TRAINER\.DPC\.TOP_K must be at least 2"),
    ],
)
def test_values_are_looked_at_without_data(tmp_path, method, opts, message):
    experiment = tiny_experiment(tmp_path, tmp_path / "output", method, *opts)
    with pytest.raises(ConfigError, match=message):
        experiment.check()
    assert not (tmp_path / "output").exists()
    tiny_experiment(tmp_path, tmp_path / "output", method).check()
