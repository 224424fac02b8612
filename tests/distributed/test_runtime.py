"""Rendezvous, collectives and ends, over loopback within this process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from i2i_prior.distributed import runtime
from i2i_prior.distributed.client import Client, join
from i2i_prior.distributed.cluster import Settings
from i2i_prior.distributed.connection import Connection
from i2i_prior.errors import UserError


def free_port() -> int:
    """Returns a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def settings(count, number, port, hosts=()):
    return Settings(f"127.0.0.1:{port}", count, number, hosts=hosts)


def each(clients, function):
    """Results of function(client), called for all at the same time."""
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(function, clients))


@pytest.fixture
def exits(monkeypatch) -> list[int]:
    """Exit codes of clients that would have ended this process."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.fixture
def meet(exits):
    """Function n -> n clients of one run, closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(count, heartbeat=100.0):
            port = free_port()
            clients = each(
                range(count),
                lambda i: join(settings(count, i, port), 20.0, heartbeat),
            )
            for client in clients:
                stack.callback(client.close)
            return clients

        yield start


def wait_for(condition, seconds=10.0):
    """Returns True if a condition holds in time."""
    due = time.monotonic() + seconds
    while not condition() and time.monotonic() < due:
        time.sleep(0.01)
    return condition()


def test_texts_are_gathered_in_order(meet):
    clients = meet(3)
    assert [client.process for client in clients] == [0, 1, 2]
    assert clients[2].hosts == [socket.gethostname()] * 3
    for turn in ("a", "b"):
        found = each(
            clients, lambda m, turn=turn: m.allgather("x", f"{turn}{m.process}")
        )
        assert found == [[f"{turn}0", f"{turn}1", f"{turn}2"]] * 3


def test_a_late_process_is_named(meet):
    clients = meet(3)

    def late(client):
        with pytest.raises(UserError) as error:
            client.allgather("the claim", seconds=0.3)
        return str(error.value)

    host = socket.gethostname()
    said = f"processes missing at 'the claim' after 0.3 s: 1 ({host}); "
    for text in each([clients[0], clients[2]], late):
        assert text.startswith(said)


def test_processes_of_different_programs_end(meet, exits, capfd):
    clients = meet(2)
    threads = [
        threading.Thread(
            target=client.allgather,
            args=(f"place {client.process}",),
            daemon=True,
        )
        for client in clients
    ]
    for thread in threads:
        thread.start()
    assert wait_for(lambda: exits == [1, 1])
    assert "they do not run the same program" in capfd.readouterr().err


@pytest.mark.parametrize("ahead", [0, 5])
def test_a_request_reaches_all_at_the_same_call(meet, ahead):
    """Process 2 asks while process 0 is some calls ahead of the others."""
    clients = meet(3)
    for _ in range(ahead):
        assert clients[0].poll_requests() == []

    def loop(client, first=0):
        for call in range(first, 10_000):
            if client.process == 2 and call == 50:
                client.request("SIGUSR1")
            if found := client.poll_requests():
                return call, found
            time.sleep(0.001 * (client.process + 1))
        return None

    found = each(clients, lambda m: loop(m, 0 if m.process else ahead))
    assert found[0] is not None
    assert found[0][0] > 50
    assert found == [(found[0][0], ["SIGUSR1"])] * 3
    # And once more, from two at the same time.
    for client in clients[:2]:
        client.request("save")
    again = each(clients, loop)
    assert again[0][1] in (["save"], ["save", "save"])
    assert [turn[0] for turn in again] == [again[0][0]] * 3


def test_a_request_reaches_a_process_that_waits_for_a_device(meet):
    """Its thread answers, so that no process waits for it in a circle."""
    clients = meet(2)
    for _ in range(7):
        clients[1].poll_requests()  # and now its main thread waits
    clients[0].request("SIGTERM")
    assert wait_for(lambda: clients[0]._deliveries)
    calls = 1
    while not clients[0].poll_requests():
        calls += 1
    assert calls == 8
    assert clients[1].poll_requests() == ["SIGTERM"]


def test_missing_processes_are_named_by_all_that_came(exits):
    port, hosts = free_port(), ("n1", "n2", "n3", "n4")

    def start(number):
        with pytest.raises(UserError) as error:
            join(settings(4, number, port, hosts), startup=1.0)
        return str(error.value)

    began = time.monotonic()
    found = each([0, 2], start)
    assert time.monotonic() - began < 5
    said = "processes missing after 1 s: 1 (n2), 3 (n4); "
    assert found[0].startswith(said)
    assert found[1] == found[0]


def test_a_missing_coordinator_is_named(exits):
    port = free_port()
    began = time.monotonic()
    with pytest.raises(UserError, match=f"answer at 127.0.0.1:{port} within"):
        join(settings(2, 1, port), startup=1.0)
    assert time.monotonic() - began < 4


def test_the_same_id_twice_and_other_counts_are_refused(exits):
    for second, said in (
        ((3, 1), "both say that they are process 1"),
        ((4, 2), "counts 4 processes, process 0 on"),
    ):
        port = free_port()

        def start(arguments, port=port, second=second):
            if arguments == second:
                time.sleep(0.3)
            with pytest.raises(UserError) as error:
                join(settings(*arguments, port), startup=10.0)
            return str(error.value)

        with ThreadPoolExecutor(3) as pool:
            texts = list(pool.map(start, [(3, 0), (3, 1), second]))
        assert all(said in text for text in texts), texts


def test_strangers_on_the_port_do_not_matter(meet, exits):
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(join, settings(2, 0, port), 20.0)
        address = "127.0.0.1", port
        assert wait_for(lambda: _answers(address))
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"x" * 9000):
            with socket.create_connection(address) as stranger:
                stranger.sendall(text)
        second = pool.submit(join, settings(2, 1, port), 20.0)
        clients = [first.result(), second.result()]
    assert each(clients, lambda m: m.allgather("here", "x")) == [["x", "x"]] * 2
    for client in reversed(clients):
        client.close()


def _answers(address) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address):
        return True
    return False


def test_a_taken_port_is_said():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on port {port}"):
            join(settings(2, 0, port))


def test_a_dead_process_ends_the_others_with_its_name(meet, exits, capfd):
    clients = meet(3)
    clients[1]._closed = True
    clients[1]._connection.close()
    assert wait_for(lambda: len(exits) == 2)
    assert exits == [75, 75]
    said = f"error: process 1 on {socket.gethostname()} is gone, so this "
    assert capfd.readouterr().err.count(said) == 2


def test_the_death_of_process_0_ends_the_others(exits, capfd):
    ours, theirs = socket.socketpair()
    Client(Connection(ours), 1, ["n1", "n2"], 100.0)
    theirs.close()
    assert wait_for(lambda: exits == [75])
    assert "error: process 0 on n1 is gone, so" in capfd.readouterr().err


def test_a_silent_process_is_gone(meet, exits, capfd):
    """Silence as of a machine without power or network."""
    clients = meet(2, heartbeat=0.6)
    time.sleep(1.5)
    assert exits == []  # beats keep them alive
    clients[1]._connection.send = lambda **message: None
    assert wait_for(lambda: exits[:1] == [75], seconds=5)
    assert "has been silent for 0.6 s" in capfd.readouterr().err


def test_who_leaves_says_why_to_all(meet, exits, capfd):
    clients = meet(3)
    with pytest.raises(SystemExit) as ended:
        clients[1].abort("no images in /data", 1)
    assert ended.value.code == 1
    assert wait_for(lambda: len(exits) == 3)
    assert exits == [1, 1, 1]
    host = socket.gethostname()
    said = f"error: process 1 on {host} ended: no images in /data\n"
    assert capfd.readouterr().err.count(said) == 2


def test_what_differs_is_named(monkeypatch):
    values = {"mesh.fsdp": -1, "train.steps": 8}
    client = SimpleNamespace(
        hosts=["n0", "n1"],
        allgather=lambda name, text, seconds: [text, text.replace("8", "9")],
    )
    monkeypatch.setattr(runtime, "_client", client)
    said = "process 1 on n1 has train.steps 9, process 0 has 8; start all with"
    with pytest.raises(UserError, match=said):
        runtime.assert_equal("config", values)
    runtime.assert_equal("config", {"mesh.fsdp": -1})


def test_one_process_needs_nobody():
    with runtime.session(None):
        assert runtime.allgather_text("here", "x") == ["x"]
        assert runtime.any_process("flag", True) is True
        assert runtime.any_process("flag", False) is False
        runtime.sync_point("there")
        runtime.assert_equal("config", {"train.steps": 3})
        runtime.request_stop("SIGTERM")
        assert runtime.stop_requests() == []
        assert runtime.is_primary()
