"""A store server's client, against the program named by SLLM_GDS (a built `sllm-gds`), without a GPU."""

import json
import os
import subprocess

import pytest

import sllm_gds

PROGRAM = os.environ.get("SLLM_GDS")


@pytest.fixture
def server(tmp_path):
    """A running server, its address, and its socket."""
    if PROGRAM is None:
        pytest.skip("SLLM_GDS names no program")
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "tensor.data_0").write_bytes(b"x" * 5000)
    command = [PROGRAM, "serve", "--storage-path", tmp_path / "models", "--port", "0", "--unix", tmp_path / "socket", "--mem-pool-size", "64MB", "--warm", "m", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        ready = json.loads(running.stdout.readline())
        while json.loads(running.stdout.readline())["event"] != "warmed":
            pass
        yield running, ready["at"][0], f"unix:{tmp_path / 'socket'}"
        running.terminate()


def test_status_is_told_over_both_ways(server):
    _, *addresses = server
    for address in addresses:
        status = sllm_gds.Client(address).status()
        assert status["pool"]["bytes"] == 64 << 20 and status["loads"] == []
        assert [(model["model"], model["bytes"]) for model in status["models"]] == [("m", 5000)]


def test_what_fails_has_an_exception_of_its_own(server):
    running, address, _ = server
    client = sllm_gds.Client(address)
    with pytest.raises(sllm_gds.RefusedError, match="name a GPU"):
        client.load("m", "cpu")
    with pytest.raises(sllm_gds.NotFoundError):
        client.load("none", "cuda:999")
    running.terminate()
    running.wait()
    for ask in (client.status, lambda: sllm_gds.Client(address)):
        with pytest.raises(ConnectionError) as gone:
            ask()
        assert isinstance(gone.value, sllm_gds.UnreachableError) and "sllm-gds serve" in str(gone.value)


def test_what_is_no_address_is_refused():
    with pytest.raises(sllm_gds.RefusedError, match="HOST:PORT"):
        sllm_gds.Client("nowhere")
