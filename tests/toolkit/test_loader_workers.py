"""Workers of a data loader without memory: one line with the remedy, never a wait without end or a traceback."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cpt_plugin import _loader_workers
from cpt_plugin._loader_workers import collate, shared, worker_failures_named
from cpt_plugin.errors import CPTError, DataError, TrainingError
from cpt_plugin.toolkit import embedded as engine
from cpt_plugin.toolkit.embedded.loader import batches
from tests.toolkit.small import small_cfg

REMEDY = r"give the machine or the container more memory and a larger /dev/shm \(docker run --shm-size 2g\), .*"
REMEDY += "or read images without workers: DATALOADER.NUM_WORKERS 0"
DIED = "(is killed by signal: {}|exited unexpectedly)"  # whether torch hears of the signal first is chance
ROOM = r"/dev/shm (has .* MiB, of which .* MiB are free|cannot be used \(.*\))"


class Items(Dataset[Any]):
    """Four items, the third of which goes wrong in a worker."""

    def __init__(self, wrong: Callable[[], Any]) -> None:
        self._wrong = wrong

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2 and get_worker_info() is not None:
            self._wrong()
        return {"img": torch.full((3,), float(index)), "label": index, "views": [torch.zeros(2)], "impath": "x"}


def no_room() -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


def no_memory() -> None:
    raise MemoryError("Unable to allocate 2.00 TiB for an array")


def killed_by(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(autouse=True, scope="module")
def dead_workers_are_missed_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # seconds
        yield
        gc.collect()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (no_room, r"a data loader worker got no shared memory \(.*</torch_1_2_3>: No space left on device \(28\)\)"),
        (no_memory, "a data loader worker got no memory"),
        (killed_by(signal.SIGKILL), f"a data loader worker {DIED.format('Killed')}, as happens for want of memory"),
        (killed_by(signal.SIGBUS), f"a data loader worker {DIED.format('Bus error')}, as happens for want of memory"),
        (lambda: os._exit(1), r"a data loader worker exited unexpectedly, as happens"),
    ],
    ids=["no room in /dev/shm", "no memory", "killed", "bus error", "gone"],
)
def test_want_of_memory_is_one_line_with_its_remedy(wrong: Callable[[], None], message: str) -> None:
    loader = DataLoader(Items(wrong), batch_size=2, num_workers=1, collate_fn=collate)
    with pytest.raises(TrainingError, match=f"^{message}.*; {ROOM}: {REMEDY}$") as caught:
        list(batches(loader))
    assert "\n" not in str(caught.value)
    assert len(list(batches(DataLoader(Items(wrong), batch_size=2, num_workers=0, collate_fn=collate)))) == 2


def test_other_errors_in_a_worker_keep_their_traceback() -> None:
    def own_fault() -> None:
        raise RuntimeError("shape mismatch in my transform")

    with pytest.raises(RuntimeError, match="shape mismatch in my transform") as caught:
        list(batches(DataLoader(Items(own_fault), batch_size=2, num_workers=1, collate_fn=collate)))
    assert not isinstance(caught.value, CPTError)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        BlockingIOError(11, "Resource temporarily unavailable"),
        OSError(12, "Cannot allocate memory"),
        OSError(38, "Function not implemented"),
    ],
)
def test_workers_that_cannot_be_started(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter.__init__", refuse)
    with pytest.raises(TrainingError, match=f"^data loader workers cannot be started .*; {ROOM}: {REMEDY}$"):
        list(batches(DataLoader(Items(no_room), num_workers=1)))


@pytest.mark.parametrize(
    "error", [DataError("no file"), OSError(28, "No space left"), RuntimeError("CUDA out of memory"), KeyError()]
)
def test_what_workers_have_no_part_in_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, worker_failures_named():
        raise error
    assert caught.value is error


def test_a_worker_shares_every_tensor_itself_and_batches_stay_the_same() -> None:
    """What is not shared before it is sent would be in a thread of the worker that nobody hears of."""
    plain, sent = (list(DataLoader(Items(print), 2, num_workers=n, collate_fn=collate)) for n in (0, 1))
    for one, other in zip(plain, sent, strict=True):
        assert one["impath"] == other["impath"] == ["x", "x"]
        for name in ("img", "label"):
            assert torch.equal(one[name], other[name])
            assert not one[name].is_shared()
        assert torch.equal(one["views"][0], other["views"][0])
    value = {"label": torch.zeros(2), "rest": [(torch.ones(1), "x"), None]}
    assert shared(value) is value
    assert not value["label"].is_shared()
    _loader_workers._share(value)
    assert value["label"].is_shared()
    assert value["rest"][0][0].is_shared()


@pytest.mark.parametrize("during", ["train", "test"])
def test_a_worker_that_dies_while_the_trainer_is_at_work_is_named_too(
    during: str, image_root: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch says so from a signal handler, wherever the program is."""
    trainer = engine.build_trainer(small_cfg(image_root, tmp_path, "OPTIM.MAX_EPOCH", 1))

    def told(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")

    monkeypatch.setattr(trainer, "before_train" if during == "train" else "model_inference", told)
    with pytest.raises(TrainingError, match=f"worker is killed by signal: Killed, .*{REMEDY}$"):
        trainer.train() if during == "train" else trainer.test()


def test_the_loaders_of_the_engine_share_in_the_worker(image_root: Any, tmp_path: Any) -> None:
    dm = engine.DataManager(small_cfg(image_root, tmp_path))
    assert {loader.collate_fn for loader in (dm.train_loader_x, dm.val_loader, dm.test_loader) if loader} == {collate}
