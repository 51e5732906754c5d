"""Loads to host memory, with numpy alone."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import sllm_gds
from conftest import pattern, write_file
from sllm_gds import _memory


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setattr(_memory, "has_torch", lambda: False)


def bytes_of(array):
    return np.ascontiguousarray(array).tobytes()


def test_a_file_loads_with_its_types_shapes_and_bytes(small):
    path, wanted = small
    for verify in (False, True):
        arrays = sllm_gds.load_file(path, "cpu", verify=verify)
        assert list(arrays) == ["bytes", "w", "half", "n", "none", "flag"]
        assert {name: bytes_of(array) for name, array in arrays.items()} == wanted
        assert (arrays["w"].dtype, arrays["w"].shape) == (np.float32, (10, 6))
        assert arrays["n"].shape == () and arrays["none"].shape == (0, 4)
        assert arrays["flag"].tolist() == [True, False]
        assert all(array.flags.writeable and array.flags.aligned for array in arrays.values())


def test_some_are_selected_by_name_or_prefix(small):
    path, wanted = small
    assert list(sllm_gds.load_file(path, "cpu", names=["w", "bytes"])) == ["bytes", "w"]
    assert list(sllm_gds.load_file(path, "cpu", prefix="n")) == ["n", "none"]
    with pytest.raises(sllm_gds.NotFoundError, match="no tensor 'absent'"):
        sllm_gds.load_file(path, "cpu", names=["absent"])
    with pytest.raises(sllm_gds.NotFoundError, match="begins with 'absent'"):
        sllm_gds.load_file(path, "cpu", prefix="absent")
    with pytest.raises(sllm_gds.RefusedError, match="one string"):
        sllm_gds.load_file(path, "cpu", names="w")
    assert sllm_gds.load_file(path, "cpu", names=[]) == {}


def test_memory_lives_as_long_as_any_array(small):
    path, wanted = small
    kept = sllm_gds.load_file(path, "cpu")["w"]
    for _ in range(3):
        sllm_gds.load_file(path, "cpu")
    assert bytes_of(kept) == wanted["w"]


def test_errors_are_exceptions_of_their_own(small, tmp_path):
    path, _ = small
    with pytest.raises(FileNotFoundError) as missing:
        sllm_gds.load_file(tmp_path / "absent", "cpu")
    assert isinstance(missing.value, sllm_gds.NotFoundError) and "absent" in str(missing.value)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError) as cut:
        sllm_gds.load_file(path, "cpu")
    assert isinstance(cut.value, sllm_gds.CheckpointError) and "cut short" in str(cut.value)
    with pytest.raises(sllm_gds.ReadError) as below:
        sllm_gds.load_file(path / "x", "cpu")
    assert isinstance(below.value, OSError) and below.value.filename and below.value.errno
    with pytest.raises(sllm_gds.RefusedError, match="without torch"):
        sllm_gds.load_file(path, "cuda:0")
    for settings, words in [({"threads": 0}, "0 reader threads"), ({"io": "x"}, "io 'x'"), ({"engine": "x"}, "engine 'x'")]:
        with pytest.raises(sllm_gds.RefusedError, match=words):
            sllm_gds.Loader(**settings)


def test_damage_since_the_save_is_told(tmp_path):
    state = {"layers.0.w": np.arange(1000, dtype=np.float32), "layers.1.w": np.ones((3, 4), np.int16)}
    saved = sllm_gds.save(state, tmp_path / "m", partitions=2)
    assert saved["files"] == 2
    loaded = sllm_gds.load(tmp_path / "m", "cpu", verify=True)
    assert all(np.array_equal(loaded[name], state[name]) and loaded[name].dtype == state[name].dtype for name in state)
    partition = tmp_path / "m" / "tensor.data_0"
    data = bytearray(partition.read_bytes())
    data[8] ^= 1
    partition.write_bytes(data)
    with pytest.raises(sllm_gds.CorruptError) as corrupt:
        sllm_gds.load(tmp_path / "m", "cpu", verify=True)
    assert len(corrupt.value.tensors) == 1 and "layers.0.w" in corrupt.value.tensors[0]


def test_a_save_replaces_nothing_unasked(tmp_path):
    state = {"w": np.arange(6)}
    sllm_gds.save(state, tmp_path / "m")
    with pytest.raises(sllm_gds.RefusedError, match="exists"):
        sllm_gds.save(state, tmp_path / "m")
    sllm_gds.save({"w": np.arange(9)}, tmp_path / "m", overwrite=True)
    assert sllm_gds.load("m", "cpu", storage_path=tmp_path)["w"].shape == (9,)
    with pytest.raises(sllm_gds.NotFoundError, match="neither"):
        sllm_gds.load("absent", "cpu", storage_path=tmp_path)


def test_tied_arrays_are_saved_and_loaded_once(tmp_path):
    w = np.arange(64, dtype=np.float32)
    sllm_gds.save({"a": w, "b": w, "c": w.copy()}, tmp_path / "m")
    loaded = sllm_gds.load(tmp_path / "m", "cpu")
    address = {name: array.ctypes.data for name, array in loaded.items()}
    assert address["a"] == address["b"] != address["c"]


def test_safe_open_reads_what_is_asked_for(small):
    path, wanted = small
    whole = np.frombuffer(wanted["w"], np.float32).reshape(10, 6)
    with sllm_gds.safe_open(path, framework="np") as file:
        assert file.keys() == sorted(wanted) and file.offset_keys() == list(wanted)
        assert file.metadata() == {"made": "by a test"}
        assert bytes_of(file.get_tensor("half")) == wanted["half"]
        part = file.get_slice("w")
        assert part.get_shape() == [10, 6] and part.get_dtype() == "F32"
        for index in [np.s_[:], np.s_[2:5], np.s_[-3:], np.s_[:, 1:3], np.s_[..., 2], np.s_[4, 2:], np.s_[3], np.s_[1:9:3, ::2], np.s_[-1, -1], np.s_[5:5], np.s_[()]]:
            assert bytes_of(part[index]) == bytes_of(whole[index]), index
            assert part[index].shape == whole[index].shape
        for index, words in [(np.s_[10], "out of bounds"), (np.s_[:11], "out of bounds"), (np.s_[::-1], "positive"), (np.s_[0, 0, 0], "3 indices"), ("w", "index 'w'")]:
            with pytest.raises(sllm_gds.RefusedError, match=words):
                part[index]
    with pytest.raises(sllm_gds.SafetensorError, match="closed"):
        file.keys()


def test_a_slice_reads_its_rows_only(tmp_path):
    rows, row_bytes = 64, 1 << 16
    data = pattern(rows * row_bytes, 3)
    path = write_file(tmp_path / "rows.safetensors", [("w", "U8", [rows, row_bytes], data)])
    loader = sllm_gds.Loader()
    with sllm_gds.safe_open(path, framework="np", loader=loader) as file:
        found = file.get_slice("w")[7:9]
    assert found.tobytes() == data[7 * row_bytes : 9 * row_bytes]
    assert loader.report["read_bytes"] <= 2 * row_bytes + 2 * 4096


def test_a_stream_yields_all_in_file_order(tmp_path):
    tensors = [(f"t{i}", "U8", [1000 * (i % 7) + i], pattern(1000 * (i % 7) + i, i)) for i in range(40)]
    path = write_file(tmp_path / "many.safetensors", tensors)
    for window_bytes in (1, 4000, 1 << 30):
        found = [(name, array.tobytes()) for name, array in sllm_gds.stream(path, "cpu", window_bytes)]
        assert found == [(name, data) for name, _, _, data in tensors]
    with pytest.raises(sllm_gds.RefusedError, match="window of 0"):
        sllm_gds.stream(path, "cpu", 0)


def test_a_stream_holds_no_more_than_its_window(tmp_path, monkeypatch):
    tensors = [(f"t{i}", "U8", [4096], pattern(4096, i)) for i in range(64)]
    path = write_file(tmp_path / "many.safetensors", tensors)
    import weakref

    live, most = weakref.WeakSet(), 0

    class Block(np.ndarray):
        __hash__ = object.__hash__

    def empty(self, nbytes):
        nonlocal most
        block = np.empty(nbytes, np.uint8).view(Block)
        live.add(block)
        most = max(most, sum(1 for _ in live))
        return block

    monkeypatch.setattr(_memory.Numpy, "empty", empty)
    window = 8
    for _name, _array in sllm_gds.stream(path, "cpu", window * 4096):
        pass
    assert 2 <= most <= window + 1


def test_a_stream_that_is_left_ends_its_loads(small):
    path, _ = small
    before = threading.active_count()
    stream = sllm_gds.stream(path, "cpu", 64)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_ranks_share_a_checkpoint(tmp_path):
    w, norm = np.arange(24 * 8, dtype=np.float32).reshape(24, 8), np.arange(5, dtype=np.float32)
    tensors = [("w", "F32", w.shape, w.tobytes()), ("norm", "F32", norm.shape, norm.tobytes())]
    path = write_file(tmp_path / "m.safetensors", tensors)
    for axis in (0, 1):
        along = lambda name, shape: axis if name == "w" else None  # noqa: E731
        for load in (lambda **k: sllm_gds.load(path, "cpu", **k), lambda **k: dict(sllm_gds.stream(path, "cpu", **k))):
            parts = [load(rank=rank, world_size=4, axis=along) for rank in range(4)]
            assert np.array_equal(np.concatenate([part["w"] for part in parts], axis), w)
            assert all(np.array_equal(part["norm"], norm) for part in parts)
    with pytest.raises(sllm_gds.RefusedError, match="5 ranks along axis 0"):
        sllm_gds.load(path, "cpu", names=["w"], rank=0, world_size=5, axis=0)
    with pytest.raises(sllm_gds.RefusedError, match="no rank 4"):
        sllm_gds.load(path, "cpu", rank=4, world_size=4)


def test_what_ranks_share_goes_through_the_page_cache_and_their_own_rows_are_read_alone(tmp_path):
    rows, row_bytes = 64, 1 << 14
    data = pattern(rows * row_bytes, 1)
    path = write_file(tmp_path / "m.safetensors", [("w", "U8", [rows, row_bytes], data), ("all", "U8", [5000], pattern(5000, 2))])
    loader = sllm_gds.Loader(io="direct")
    along = lambda name, shape: 0 if name == "w" else None  # noqa: E731
    sllm_gds.load(path, "cpu", rank=1, world_size=2, axis=along, loader=loader)
    assert loader.report["read_bytes"] <= rows * row_bytes // 2 + 2 * 4096
    shared = loader._buffered().report
    assert shared["bytes"] == 5000 and shared["direct_bytes"] == 0


def test_dlpack_hands_memory_on(small):
    path, wanted = small
    arrays = sllm_gds.load_dlpack(path, "cpu", names=["w", "half", "n", "bytes"])
    taken = {name: np.from_dlpack(array) for name, array in arrays.items()}
    assert arrays["w"].__dlpack_device__() == (1, 0) and arrays["w"].dtype == "F32" and arrays["w"].shape == [10, 6]
    del arrays
    assert all(bytes_of(array) == wanted[name] for name, array in taken.items())


def test_dlpack_capsules_are_versioned_only_where_that_is_asked(small):
    path, _ = small
    array = sllm_gds.load_dlpack(path, "cpu")["w"]
    assert '"dltensor"' in repr(array.__dlpack__())
    assert '"dltensor"' in repr(array.__dlpack__(max_version=(0, 8)))
    assert '"dltensor_versioned"' in repr(array.__dlpack__(max_version=(1, 0)))
    with pytest.raises(BufferError):
        array.__dlpack__(dl_device=(2, 0))


def test_float8_crosses_as_bytes(tmp_path):
    path = write_file(tmp_path / "f8.safetensors", [("q", "F8_E4M3", [2, 4], pattern(8, 1)), ("f4", "F4", [2, 4], pattern(4, 2))])
    arrays = {name: np.from_dlpack(array) for name, array in sllm_gds.load_dlpack(path, "cpu").items()}
    assert arrays["q"].dtype == np.uint8 and arrays["q"].shape == (2, 4) and arrays["q"].tobytes() == pattern(8, 1)
    assert arrays["f4"].dtype == np.uint8 and arrays["f4"].shape == (2, 2) and arrays["f4"].tobytes() == pattern(4, 2)


def test_types_that_numpy_lacks_need_ml_dtypes(tmp_path, monkeypatch):
    path = write_file(tmp_path / "bf.safetensors", [("b", "BF16", [4], pattern(8, 1))])
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(sllm_gds.RefusedError, match="ml_dtypes"):
        sllm_gds.load_file(path, "cpu")
    monkeypatch.undo()
    monkeypatch.setattr(_memory, "has_torch", lambda: False)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert sllm_gds.load_file(path, "cpu")["b"].dtype == ml_dtypes.bfloat16


def test_loads_run_side_by_side(small):
    path, wanted = small
    wrong = []

    def load():
        for _ in range(20):
            arrays = sllm_gds.load_file(path, "cpu")
            if {name: bytes_of(array) for name, array in arrays.items()} != wanted:
                wrong.append(True)

    threads = [threading.Thread(target=load) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def _in_child(path, loader, answers):
    try:
        arrays = sllm_gds.load_file(path, "cpu", loader=loader)
        answers.put(sorted(arrays))
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def test_a_forked_loader_raises_and_a_new_one_works(small):
    path, wanted = small
    loader = sllm_gds.Loader()
    sllm_gds.load_file(path, "cpu", loader=loader)
    context = multiprocessing.get_context("fork")
    for given, want in [(loader, "RefusedError"), (None, sorted(wanted))]:
        answers = context.Queue()
        child = context.Process(target=_in_child, args=(path, given, answers))
        child.start()
        answer = answers.get(timeout=60)
        child.join()
        assert (want in answer and "fork" in answer) if isinstance(want, str) else answer == want


CTRL_C = """
import os, signal, sys, threading
import sllm_gds
path = sys.argv[1]
started = threading.Event()
def strike():
    started.wait()
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        if done.wait(0.02):
            return
done = threading.Event()
thread = threading.Thread(target=strike, daemon=True)
thread.start()
try:
    while True:
        started.set()
        sllm_gds.load_dlpack(path, "cpu")
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done.set()
    print("interrupted")
"""


def test_ctrl_c_ends_a_load(small):
    path, _ = small
    run = subprocess.run([sys.executable, "-c", CTRL_C, str(path)], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "interrupted", run.stderr


def test_ctrl_c_ends_a_load_that_would_not_end_by_itself(tmp_path):
    """A file of many gigabytes that has no blocks: loading it takes far longer than this test may."""
    size = 1 << 36
    path = write_file(tmp_path / "huge.safetensors", [("w", "U8", [size], b"")])
    text = path.read_bytes()[8:].replace(b"[0, 0]", b"[0, %d]" % size)
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + size)
    script = (
        "import sys, sllm_gds\n"
        "w = sllm_gds.safe_open(sys.argv[1], 'np').get_slice('w')\n"
        "print('go', flush=True)\n"
        "while True: w[: 1 << 33]\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "go"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode != 0 and "KeyboardInterrupt" in errors, errors


def test_the_package_is_typed_and_documented():
    folder = Path(sllm_gds.__file__).parent
    assert (folder / "py.typed").is_file() and (folder / "_core.pyi").is_file()
    for name in sllm_gds.__all__:
        if name != "__version__":
            assert getattr(sllm_gds, name).__doc__, name
