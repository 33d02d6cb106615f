"""Following a training: its learning curves arrive in MLflow while it runs. `mirror` adds the rest afterwards."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

from workflow.params import Params, own_title
from workflow.tracking.runs import curves, run_of
from workflow.tracking.store import Store, never_failing, warn
from workflow.training.history import Record

# Seconds: of training before the first records are sent, between batches of them, and to wait for the last one.
LIVE_AFTER, SEND_EVERY, GRACE = 10.0, 2.0, 30.0

Queue = queue.SimpleQueue[Record | str]  # records, and last the run's status in MLflow


@contextlib.contextmanager
def live(name: str, seed: int, settings: Params) -> Iterator[Callable[[Record], None]]:
    """Send a training's records to MLflow while it runs; yields the function that takes a record.

    A thread of its own does all of it: taking a record costs nothing, and no failure reaches the training.
    """
    records: Queue = queue.SimpleQueue()
    thread = threading.Thread(target=_follow, args=(name, seed, settings, records), daemon=True)
    thread.start()
    status = "FAILED"
    try:
        yield records.put
        status = "FINISHED"
    finally:
        records.put(status)
        thread.join(GRACE)
        if thread.is_alive():
            warn("it does not answer")


def _follow(name: str, seed: int, settings: Params, records: Queue) -> None:
    """Send records, a batch every two seconds, until the run's status comes instead of one."""
    start = time.monotonic()
    batch, status = _take(records, LIVE_AFTER)
    if status:  # over before anybody could have watched: `mirror` sends everything, and MLflow need not be imported
        return
    with never_failing():
        store = Store(own_title(settings.data) or settings.data.name)
        run = run_of(store, name, seed, settings)
        run_id = run.info.run_id
        store.client.update_run(run_id, status="RUNNING")
        known = store.points(run)  # what an earlier, interrupted training of the same content has sent
        while True:
            new = {point: value for point, value in curves(batch).items() if point not in known}
            store.send(run_id, new)
            known |= new.keys()
            if status:
                break
            batch, status = _take(records, SEND_EVERY)
        # The run is younger than the training, by `LIVE_AFTER` at least; its duration is to be the training's.
        store.client.set_terminated(run_id, status, run.info.start_time + int(1000 * (time.monotonic() - start)))


def _take(records: Queue, seconds: float) -> tuple[list[Record], str]:
    """The records that come within so many seconds, and the run's status if it comes, which ends the wait."""
    batch: list[Record] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            item = records.get(timeout=left)
            if isinstance(item, str):
                return batch, item
            batch.append(item)
    return batch, ""
