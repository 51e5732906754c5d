"""torch tensors: on the cpu everywhere that torch is, on a GPU with `-m gpu`."""

import multiprocessing
import os

import pytest

torch = pytest.importorskip("torch")

import sllm_gds  # noqa: E402
from conftest import pattern, write_file  # noqa: E402

GPU = pytest.param("cuda:0", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")])
DEVICES = ["cpu", GPU]
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

#: One tensor of each type that torch has: safetensors' name, torch's, bytes of four elements.
TYPES = {
    "BOOL": ("bool", 4), "U8": ("uint8", 4), "I8": ("int8", 4), "F8_E4M3": ("float8_e4m3fn", 4), "F8_E5M2": ("float8_e5m2", 4),
    "F8_E8M0": ("float8_e8m0fnu", 4), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 4), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 4),
    "U16": ("uint16", 8), "I16": ("int16", 8), "F16": ("float16", 8), "BF16": ("bfloat16", 8), "U32": ("uint32", 16),
    "I32": ("int32", 16), "F32": ("float32", 16), "U64": ("uint64", 32), "I64": ("int64", 32), "F64": ("float64", 32),
    "C64": ("complex64", 32),
}  # fmt: skip


def bytes_of(tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def model(tmp_path):
    """A model of some megabytes, its tensors in no order of sizes."""
    shapes = {"embed": [1000, 256], "norm": [256], "odd": [7]}
    shapes.update({f"layers.{i}.{part}": [256 + 8 * i, 512] for i in range(6) for part in ("q", "down")})
    tensors = {name: pattern(2 * torch.Size(shape).numel(), seed) for seed, (name, shape) in enumerate(shapes.items())}
    rows = [(name, "BF16", shape, tensors[name]) for name, shape in shapes.items()]
    return write_file(tmp_path / "model.safetensors", rows), tensors


@pytest.mark.parametrize("device", DEVICES)
def test_every_type_of_torch(tmp_path, device):
    rows = [(name, name, [2, 2], pattern(nbytes, seed)) for seed, (name, (_, nbytes)) in enumerate(TYPES.items())]
    rows[0] = ("BOOL", "BOOL", [2, 2], b"\1\0\1\1")
    rows.append(("F4", "F4", [2, 4], pattern(4, 77)))
    path = write_file(tmp_path / "types.safetensors", rows)
    loaded = sllm_gds.load_file(path, device, verify=True)
    for name, _, _, data in rows[:-1]:
        assert loaded[name].dtype == getattr(torch, TYPES[name][0]) and loaded[name].shape == (2, 2)
        assert loaded[name].device == torch.device(device) and bytes_of(loaded[name]) == data, name
    assert loaded["F4"].dtype == torch.float4_e2m1fn_x2 and loaded["F4"].shape == (2, 2)
    assert bytes_of(loaded["F4"].view(torch.uint8)) == rows[-1][-1]


@pytest.mark.parametrize("device", DEVICES)
def test_all_ways_of_loading_bring_the_same_bytes(model, device):
    path, wanted = model
    for found in (
        sllm_gds.load_file(path, device),
        sllm_gds.load_file(path, device, verify=True),
        sllm_gds.load(path, device),
        dict(sllm_gds.stream(path, device, 300_000)),
        dict(sllm_gds.stream(path, device)),
        sllm_gds.safe_open(path, "pt", device).get_tensors(),
        {name: torch.from_dlpack(tensor) for name, tensor in sllm_gds.load_dlpack(path, device).items()},
    ):
        assert list(found) == list(wanted)
        for name, data in wanted.items():
            assert found[name].device == torch.device(device) and found[name].is_contiguous()
            assert found[name].data_ptr() % 256 == 0 or device == "cpu"
            assert bytes_of(found[name]) == data, name


@pytest.mark.parametrize("device", DEVICES)
def test_links_are_named_in_one_way_everywhere(model, device):
    path, wanted = model
    own = {name: torch.zeros_like(tensor) for name, tensor in sllm_gds.load_file(path, device).items()}
    for links in ("auto", "own", "all", [0], ["cuda:0"]):
        ways = [sllm_gds.load_file(path, device, links=links), sllm_gds.load(path, device, links=links)]
        ways.append(dict(sllm_gds.stream(path, device, 400_000, links=links)))
        sllm_gds.load_into(path, own, links=links)
        for found in (*ways, own):
            assert all(bytes_of(found[name]) == data for name, data in wanted.items())
        for tensor in own.values():
            tensor.zero_()
    for links in ("nonsense", 3):
        for load in (sllm_gds.load_file, sllm_gds.load, sllm_gds.load_dlpack, lambda *a, **k: dict(sllm_gds.stream(*a, **k))):
            with pytest.raises(sllm_gds.RefusedError, match="auto, own, all"):
                load(path, device, links=links)


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_that_is_cut_under_a_stream_ends_it(model, device):
    path, wanted = model
    stream = sllm_gds.stream(path, device, 100_000)
    name, tensor = next(stream)
    assert bytes_of(tensor) == wanted[name]
    whole = path.read_bytes()
    os.truncate(path, 4096)
    with pytest.raises(sllm_gds.SllmGdsError) as error:
        for name, tensor in stream:
            assert bytes_of(tensor) == wanted[name], name
    assert path.name in str(error.value)
    # The loader goes on to work.
    path.write_bytes(whole)
    assert all(bytes_of(tensor) == wanted[name] for name, tensor in sllm_gds.stream(path, device, 100_000))


@pytest.mark.parametrize("device", DEVICES)
def test_slices(model, device):
    path, wanted = model
    whole = torch.frombuffer(bytearray(wanted["embed"]), dtype=torch.bfloat16).reshape(1000, 256)
    with sllm_gds.safe_open(path, "pt", device) as file:
        part = file.get_slice("embed")
        for index in [(slice(5, 9),), (slice(None), slice(3, 70)), (slice(900, None), 4), (..., slice(0, 256, 5)), (7,)]:
            assert bytes_of(part[index]) == bytes_of(whole[index])
            assert part[index].untyped_storage().nbytes() <= whole[index].numel() * 2 + 2
    for axis in (0, 1):
        along = lambda name, shape: axis if name == "embed" else None  # noqa: E731
        for rank in range(2):
            for found in (
                sllm_gds.load(path, device, rank=rank, world_size=2, axis=along),
                dict(sllm_gds.stream(path, device, 200_000, rank=rank, world_size=2, axis=along)),
            ):
                assert bytes_of(found["embed"]) == bytes_of(whole.chunk(2, axis)[rank])
                assert bytes_of(found["norm"]) == wanted["norm"]


@pytest.mark.parametrize("device", DEVICES)
def test_straight_into_parameters(model, device):
    path, wanted = model
    shapes = {name: tensor.shape for name, tensor in sllm_gds.load_file(path, "cpu").items()}
    own = {name: torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16, device=device)) for name, shape in shapes.items()}
    for verify in (False, True):
        sllm_gds.load_into(path, own, verify=verify)
        assert all(bytes_of(own[name]) == data for name, data in wanted.items())
    # Rows of a fused parameter, and a part of each row of another.
    fused = torch.zeros(2 * 256, 512, dtype=torch.bfloat16, device=device)
    wide = torch.zeros(1000, 300, dtype=torch.bfloat16, device=device)
    sllm_gds.load_into(path, {"layers.0.q": fused[:256], "layers.0.down": fused[256:], "embed": wide[:, 20:276]})
    assert bytes_of(fused) == wanted["layers.0.q"] + wanted["layers.0.down"]
    assert bytes_of(wide[:, 20:276]) == wanted["embed"] and not wide[:, :20].any() and not wide[:, 276:].any()
    half = torch.zeros(1000, 128, dtype=torch.bfloat16, device=device)
    sllm_gds.load_into(path, {"embed": half}, rank=1, world_size=2, axis=1)
    assert bytes_of(half) == bytes_of(torch.frombuffer(bytearray(wanted["embed"]), dtype=torch.bfloat16).reshape(1000, 256)[:, 128:])


def test_what_does_not_fit_is_refused_before_a_byte_moves(model):
    path, _ = model
    good = torch.zeros(256, dtype=torch.bfloat16)
    for name, bad, words in [
        ("odd", torch.zeros(8, dtype=torch.bfloat16), "shape"),
        ("odd", torch.zeros(7), "float32"),
        ("odd", torch.zeros(14, dtype=torch.bfloat16)[::2], "rows do not lie contiguously"),
        ("odd", torch.zeros(1, dtype=torch.bfloat16).expand(7), "expanded"),
        ("odd", torch.zeros(7, dtype=torch.bfloat16, device="meta"), "meta"),
        ("odd", good[:7], "overwrite"),
        ("odd", [0] * 7, "list"),
    ]:
        with pytest.raises(sllm_gds.RefusedError, match=words) as refused:
            sllm_gds.load_into(path, {"norm": good, name: bad})
        assert not good.any() and refused.value.half_written == ()
    with pytest.raises(sllm_gds.NotFoundError, match="absent"):
        sllm_gds.load_into(path, {"norm": good, "absent": good})
    assert not good.any()


def test_a_failure_names_what_may_be_half_written(model):
    path, wanted = model
    sllm_gds.save({name: tensor.clone() for name, tensor in sllm_gds.load_file(path, "cpu").items()}, path.parent / "m")
    partition = path.parent / "m" / "tensor.data_0"
    data = bytearray(partition.read_bytes())
    data[0] ^= 1
    partition.write_bytes(data)
    own = {name: torch.zeros_like(tensor) for name, tensor in sllm_gds.load(path.parent / "m", "cpu").items()}
    with pytest.raises(sllm_gds.CorruptError) as corrupt:
        sllm_gds.load_into(path.parent / "m", own, verify=True)
    assert sorted(corrupt.value.half_written) == sorted(wanted) and "may be half-written" in str(corrupt.value)


@pytest.mark.parametrize("device", DEVICES)
def test_a_save_of_tensors_loads_again(tmp_path, device):
    state = {"a": torch.randn(33, 7), "t": torch.randn(6, 5).t(), "b": torch.ones(5, dtype=torch.bfloat16), "q": torch.randn(4, 4).to(torch.float8_e4m3fn)}
    state = {name: tensor.to(device) for name, tensor in state.items()}
    state["tied"] = state["a"]
    sllm_gds.save(state, tmp_path / "m", partitions=2)
    loaded = sllm_gds.load(tmp_path / "m", device, verify=True)
    assert loaded.keys() == state.keys() and loaded["tied"].data_ptr() == loaded["a"].data_ptr()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape and bytes_of(loaded[name]) == bytes_of(tensor)


def test_a_device_that_is_not_there_is_said(model):
    path, _ = model
    for device, kind in [("cuda:99", sllm_gds.NotFoundError), ("nonsense", sllm_gds.RefusedError), ("meta", sllm_gds.RefusedError)]:
        with pytest.raises(kind):
            sllm_gds.load_file(path, device)


class TestGpu:
    pytestmark = on_gpu

    def test_the_memory_is_torchs_and_is_free_again(self, model):
        path, wanted = model
        sllm_gds.load_file(path)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        tensors = sllm_gds.load_file(path)
        taken = torch.cuda.memory_allocated() - before
        assert sum(map(len, wanted.values())) <= taken <= sum(map(len, wanted.values())) + 256 * len(wanted) + (1 << 20)
        kept = tensors["norm"]
        del tensors
        assert torch.cuda.memory_allocated() - before == taken
        assert bytes_of(kept) == wanted["norm"]
        del kept
        assert torch.cuda.memory_allocated() == before

    def test_work_that_was_queued_on_the_memory_ends_first(self, model):
        """A block that goes back to torch's pool while a kernel still writes to it is given to the load."""
        path, wanted = model
        nbytes = torch.cuda.memory_allocated()
        sizes = [tensor.untyped_storage().nbytes() for tensor in sllm_gds.load_file(path).values()][:1]
        for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
            with torch.cuda.stream(stream):
                for _ in range(5):
                    block = torch.empty(sizes[0], dtype=torch.uint8, device="cuda")
                    torch.cuda._sleep(200_000_000)
                    block.fill_(255)
                    del block
                    tensors = sllm_gds.load_file(path)
                    assert all(bytes_of(tensors[name]) == data for name, data in wanted.items())
                    del tensors
        assert nbytes >= 0

    def test_a_stream_waits_for_what_its_caller_still_reads(self, model):
        path, wanted = model
        for _ in range(3):
            kept = {}
            for name, tensor in sllm_gds.stream(path, window_bytes=600_000):
                torch.cuda._sleep(2_000_000)
                kept[name] = tensor.clone()
                del tensor
            torch.cuda.synchronize()
            assert all(bytes_of(kept[name]) == data for name, data in wanted.items())

    def test_a_stream_takes_no_more_than_its_window(self, model):
        path, wanted = model
        window_bytes, largest = 2_000_000, max(map(len, wanted.values()))
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _name, _tensor in sllm_gds.stream(path, window_bytes=window_bytes):
            pass
        assert torch.cuda.max_memory_allocated() - before <= max(window_bytes, largest) + largest + 512 * len(wanted)

    def test_expandable_segments(self, model, tmp_path):
        """Blocks that torch maps piece by piece, 20 MiB each."""
        path = write_file(tmp_path / "large.safetensors", [("w", "U8", [96 << 20], pattern(1 << 20, 1) * 96), ("v", "U8", [3], b"abc")])
        script = (
            "import sys, torch, sllm_gds\n"
            "a = sllm_gds.load_file(sys.argv[1], verify=True)\n"
            "b = {n: torch.zeros_like(t) for n, t in a.items()}\n"
            "sllm_gds.load_into(sys.argv[1], b, verify=True)\n"
            "assert all(torch.equal(a[n].view(torch.uint8), b[n].view(torch.uint8)) for n in a)\n"
            "print(len(dict(sllm_gds.stream(sys.argv[1]))))\n"
        )
        import subprocess
        import sys

        environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, env=environment, timeout=300)
        assert run.returncode == 0, run.stderr

    def test_a_block_of_many_segments(self, tmp_path):
        path = write_file(tmp_path / "large.safetensors", [("w", "U8", [192 << 20], pattern(1 << 20, 1) * 192)])
        assert bytes_of(sllm_gds.load_file(path, verify=True)["w"]) == pattern(1 << 20, 1) * 192

    def test_a_fork_after_cuda_raises(self, model):
        path, _ = model
        sllm_gds.load_file(path)
        answers = multiprocessing.get_context("fork").Queue()
        child = multiprocessing.get_context("fork").Process(target=_load_in_child, args=(path, answers))
        child.start()
        assert "RefusedError" in answers.get(timeout=60)
        child.join()

    def test_numpy_tests_devices_by_number_and_object(self, model):
        path, wanted = model
        for device in (0, "cuda", torch.device("cuda"), torch.device("cuda", 0)):
            assert sllm_gds.load_file(path, device, names=["norm"])["norm"].device == torch.device("cuda", 0)

    def test_no_room_is_said(self, tmp_path):
        free, _ = torch.cuda.mem_get_info()
        nbytes = free + (1 << 30)
        path = write_file(tmp_path / "huge.safetensors", [("w", "U8", [nbytes], b"")])
        text = path.read_bytes()[8:].replace(b"[0, 0]", b"[0, %d]" % nbytes)
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + nbytes)
        with pytest.raises(torch.OutOfMemoryError):
            sllm_gds.load_file(path)
        with pytest.raises(sllm_gds.OutOfMemoryError) as short:
            sllm_gds.load_dlpack(path)
        assert short.value.needed_bytes >= nbytes


def _load_in_child(path, answers):
    try:
        sllm_gds.load_file(path)
        answers.put("loaded")
    except Exception as error:
        answers.put(type(error).__name__)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(model):
    path, wanted = model
    on = {name: torch.zeros_like(tensor, device=f"cuda:{i % 2}") for i, (name, tensor) in enumerate(sllm_gds.load_file(path, "cuda:1").items())}
    sllm_gds.load_into(path, on, verify=True)
    assert all(bytes_of(on[name]) == data for name, data in wanted.items())
