"""Tests of the sharded index between two machines, and with ranks that end, stop, or can no longer be reached.

The two machines are network namespaces with a link that delays every packet by 1 ms and loses one in a hundred. Making them needs
root's rights on Linux; without these, the tests of the link are skipped.
"""

import os
import signal
import traceback
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from orthohash_triton.search import HammingIndex, ShardedHammingIndex
from tests import networks
from tests.processes import free_port, fresh_processes, run_checks
from tests.search import test_sharded

DELAY, LOSS = 0.001, 0.01
TIMEOUT = 4.0  # seconds of the process group
START = 180.0  # seconds that processes may take to start and to compile, on a machine that may be busy
SLACK = 30.0  # seconds after the timeout in which a busy machine must report the error
PORT = 29500  # of the first machine, whose ports nothing else uses

# Checks of test_sharded that send messages of each kind, and few enough of them for a link that loses packets.
CHECKS = (
    "check_search_of_galleries_sorted_by_distance",
    "check_range_search",
    "check_built_shards",
    "check_filters_by_id",
    "check_add_split",
    "check_save_and_load",
    "check_ranks_that_disagree",
)

UNAVAILABLE = networks.why_unavailable()
needs_namespaces = pytest.mark.skipif(UNAVAILABLE is not None, reason=f"no network namespaces here: {UNAVAILABLE}")


def _work(rank, folder, machines):
    machines[rank].enter()
    dist.init_process_group("gloo", init_method=f"tcp://{machines[0].address}:{PORT}", rank=rank, world_size=2)
    world = SimpleNamespace(rank=rank, size=2, group=None, others=None, folder=folder)
    for name in CHECKS:
        yield name, None
        failure = None
        try:
            getattr(test_sharded, name)(world)
        except BaseException:
            failure = traceback.format_exc()
        yield "", failure
    dist.destroy_process_group()


@needs_namespaces
def test_between_two_machines(tmp_path):
    with networks.two_machines(delay=DELAY, loss=LOSS) as (machines, link):
        outcomes = run_checks(_work, 2, tmp_path, 180, machines)
    assert outcomes.stopped is None, outcomes.failures
    assert {name: sorted(of_ranks) for name, of_ranks in outcomes.failures.items()} == {name: [0, 1] for name in CHECKS}
    assert not any(failure for of_ranks in outcomes.failures.values() for failure in of_ranks.values())
    assert link.carried > 500  # the messages went over the link
    assert 0.002 < link.lost / (link.lost + link.carried) < 0.03


def _search_until_it_fails(rank, size, machine, address, pipe):
    """Search again and again, and report the third answer, and then the error that ends the searches."""
    torch.set_num_threads(1)
    if machine is not None:
        machine.enter()
    gallery, queries = test_sharded.codes(300 * size), test_sharded.codes(5, seed=1)
    alone = HammingIndex(64)
    alone.add(gallery)
    expected = alone.search(queries, 20)  # compiles before others wait for this process
    # The processes of a busy machine do not arrive at the same time, so that only the group of the index has the short timeout.
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=START))
    index = ShardedHammingIndex(64, dist.new_group(timeout=timedelta(seconds=TIMEOUT)))
    index.add_split(gallery)
    try:
        for search in range(10**9):
            test_sharded.same(index.search(queries, 20), expected)
            if search == 2:
                pipe.send("searching")
    except RuntimeError as error:
        pipe.send(str(error))
    with pytest.raises(RuntimeError, match=r"ShardedHammingIndex.add_split: rank \d of \d lost contact with the other ranks"):
        index.add_split(gallery)
    assert index.ntotal == len(gallery)
    np.testing.assert_array_equal(index.shard.codes, gallery[index.offset : index.offset + len(index.shard)])
    dist.destroy_process_group()


def _errors_of_the_others(harm, victims, size, machines, address):
    """Start processes that search, do `harm(processes)`, and return the errors of all but the `victims`."""
    context = fresh_processes()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_search_until_it_fails, args=(rank, size, machine, address, pipes[rank][1]))
        for rank, machine in enumerate(machines)
    ]
    try:
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        for receiver, _ in pipes:
            assert receiver.poll(START), "a process did not begin to search"
            assert receiver.recv() == "searching"
        harm(processes)
        errors = []
        for rank in sorted({*range(size)} - {*victims}):
            assert pipes[rank][0].poll(TIMEOUT + SLACK), f"rank {rank} waits after the timeout of the group"
            errors.append(pipes[rank][0].recv())
            processes[rank].join(SLACK)
            assert processes[rank].exitcode == 0, f"rank {rank} ended with {processes[rank].exitcode}"
        return errors
    finally:
        for process in processes:
            process.kill()
            process.join()


# Rank 0 also holds the addresses of all ranks, so that its end is another case than that of rank 2.
@pytest.mark.parametrize(
    ("victim", "sent", "told"),
    [(0, signal.SIGKILL, "closed by peer|reset by peer"), (2, signal.SIGSTOP, "Timed out")],
    ids=["killed", "stopped"],
)
def test_a_rank_that_ends_or_stops(victim, sent, told):
    def harm(processes):
        os.kill(processes[victim].pid, sent)

    errors = _errors_of_the_others(harm, [victim], 3, [None] * 3, f"tcp://127.0.0.1:{free_port()}")
    _check(errors, 3, told)


@needs_namespaces
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP, None], ids=["killed", "stopped", "link cut"])
def test_a_machine_that_is_lost(sent):
    with networks.two_machines(delay=DELAY, loss=LOSS) as (machines, link):

        def harm(processes):
            if sent is None:
                link.cut()
            else:
                os.kill(processes[1].pid, sent)

        victims = [] if sent is None else [1]
        errors = _errors_of_the_others(harm, victims, 2, machines, f"tcp://{machines[0].address}:{PORT}")
    _check(errors, 2, "closed by peer|reset by peer" if sent == signal.SIGKILL else "Timed out")


def _check(errors, size, told):
    """Check that the errors of all ranks name the call and what to do, and that one of them has the cause."""
    for error in errors:
        assert error.startswith("ShardedHammingIndex.search: rank ")
        assert f"of {size} lost contact with the other ranks" in error
        assert "end all processes" in error
    assert any(word in error for word in told.split("|") for error in errors), errors
