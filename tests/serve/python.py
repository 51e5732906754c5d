"""ServerlessLLM's own Python client, unmodified, against a running server.

Called with the server's address, a model's path below the storage path and its size in bytes. Its package must be on
PYTHONPATH. Says a line a call, and fails at the first answer that is not as expected.
"""

import sys
import uuid

import grpc
from sllm_store.client import SllmStoreClient
from sllm_store.proto import storage_pb2

address, model, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = SllmStoreClient(address)
NO_GPU = str(uuid.UUID(int=0))
HANDLE = bytes(64)
CPU, GPU, DISK = (storage_pb2.DeviceType.Value("DEVICE_TYPE_" + name) for name in ("CPU", "GPU", "DISK"))


def expect(what, got, wanted):
    print(f"{what}: {str(got).strip()!r}")
    if got != wanted:
        sys.exit(f"{what} gave {got!r}, and not {wanted!r}")


def refused(what, call, code, says):
    """By their stub, since their client keeps the code to itself; its words must name cause and remedy."""
    try:
        answer = call()
    except grpc.RpcError as error:
        print(f"{what}: {error.code().name}: {error.details()}")
        if error.code() != code or not error.details() or says not in error.details():
            sys.exit(f"{what}: expected {code} with '{says}'")
    else:
        sys.exit(f"{what} was answered with {answer!r}, and not refused")


def load(path=model, replica="r", chunks=((0, 1, 0, 0),), handles=(HANDLE,), device=GPU):
    chunk = [storage_pb2.MemCopyChunk(src_offset=s, size=n, dst_offset=d, handle_idx=h) for s, n, d, h in chunks]
    handle = [storage_pb2.MemCopyHandle(cuda_ipc_handle=h) for h in handles]
    request = storage_pb2.LoadModelRequest(
        model_path=path,
        replica_uuid=replica,
        chunks={NO_GPU: storage_pb2.MemCopyChunkList(chunks=chunk)},
        handles={NO_GPU: storage_pb2.MemCopyHandleList(handles=handle)},
        target_device_type=device,
    )
    return lambda: client.stub.LoadModelAsync(request)


def unload(path=model, device=CPU):
    request = storage_pb2.UnloadModelRequest(model_path=path, target_device_type=device)
    return lambda: client.stub.UnloadModel(request)


def confirm(replica, device=GPU):
    request = storage_pb2.ConfirmModelRequest(model_path=model, replica_uuid=replica, target_device_type=device)
    return lambda: client.stub.ConfirmModel(request)


def register(path):
    return lambda: client.stub.RegisterModel(storage_pb2.RegisterModelRequest(model_path=path))


Code = grpc.StatusCode

# As a probe asks, of the server and of their service: SERVING is 1.
check = client.channel.unary_unary("/grpc.health.v1.Health/Check")
expect("health", [check(b""), check(b"\n\x0fstorage.Storage")], [b"\x08\x01"] * 2)

# What their client does, by its own methods, well and badly.
expect("get_server_config", client.get_server_config(), {"chunk_size": 1 << 20, "mem_pool_size": 64 << 20})
expect("register_model", client.register_model(model), size)
expect("register_model of none", client.register_model("none"), -1)
expect("register_model above", client.register_model("../etc"), -1)
for time in ("first", "second"):
    expect(f"load_into_cpu, {time}", client.load_into_cpu(model), storage_pb2.LoadModelResponse(model_path=model))
expect("load_into_cpu of none", client.load_into_cpu("none"), False)
loaded = client.load_into_gpu(model, "one", {NO_GPU: [(0, 1, 0, 0)]}, {NO_GPU: [HANDLE]})
expect("load_into_gpu of a GPU that is not here", loaded, False)
expect("confirm_model_loaded of what failed", client.confirm_model_loaded(model, "one"), False)
expect("confirm_model_loaded of none", client.confirm_model_loaded(model, "none"), False)
answer = storage_pb2.UnloadModelResponse(model_path=model, code=0)
for time in ("first", "second"):
    expect(f"unload_from_cpu, {time}", client.unload_from_cpu(model), answer)
expect("unload_from_cpu of none", client.unload_from_cpu("none"), False)
expect("ClearMem", client.stub.ClearMem(storage_pb2.ClearMemRequest()), storage_pb2.ClearMemResponse())
expect("load_into_cpu after ClearMem", bool(client.load_into_cpu(model)), True)

# The codes that it does not tell.
refused("register nothing", register(""), Code.INVALID_ARGUMENT, "empty")
refused("register none", register("none"), Code.NOT_FOUND, "no model 'none'")
refused("register above", register("../x"), Code.INVALID_ARGUMENT, "out of the storage path")
refused("register a path elsewhere", register("/etc"), Code.INVALID_ARGUMENT, "out of the storage path")
refused("load to disk", load(device=DISK), Code.UNIMPLEMENTED, "CPU or GPU")
refused("load without an id", load(replica=""), Code.INVALID_ARGUMENT, "replica id")
refused("load nothing", load(replica="a", chunks=()), Code.INVALID_ARGUMENT, "nothing is to be loaded")
refused("load to a handle that is none", load(replica="b", handles=[b"x"]), Code.INVALID_ARGUMENT, "64 bytes")
refused("load to a handle too many", load(replica="c", chunks=[(0, 1, 0, 1)]), Code.INVALID_ARGUMENT, "handle 1")
refused("load beyond the end", load(replica="d", chunks=[(size, 1, 0, 0)]), Code.OUT_OF_RANGE, str(size))
largest = [(2**64 - 1, 2**64 - 1, 2**64 - 1, 0)]
refused("load beyond all numbers", load(replica="e", chunks=largest), Code.OUT_OF_RANGE, str(size))
refused("load of none", load("none", replica="f"), Code.NOT_FOUND, "no model 'none'")
refused("load to a GPU that is not here", load(replica="g"), Code.FAILED_PRECONDITION, "")
refused("the same once more", load(replica="g"), Code.FAILED_PRECONDITION, "")
refused("its id for another model", load("none", replica="g"), Code.ALREADY_EXISTS, "take a new one")
refused("confirm it", confirm("g"), Code.FAILED_PRECONDITION, "")
refused("confirm on the CPU", confirm("g", device=CPU), Code.UNIMPLEMENTED, "GPU")
refused("unload from the GPU", unload(device=GPU), Code.UNIMPLEMENTED, "CPU")
refused("unload above", unload("../x"), Code.INVALID_ARGUMENT, "out of the storage path")
expect("the server lives", client.register_model(model), size)
