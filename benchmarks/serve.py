#!/usr/bin/env python3
"""The store server, loaded from as ServerlessLLM's client does it (GPU memory by cudaMalloc, its handle by gRPC), beside the same
loads in one process, in turns. Started by serve.sh; prints a table, and writes each figure as a line to OUT/serve.jsonl."""

import argparse
import ctypes
import json
import os
import signal
import statistics
import subprocess
import threading
import time
import uuid

# Each tensor is an allocation of its own, as by cudaMalloc: only such memory has a handle.
os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import grpc  # noqa: E402
import torch  # noqa: E402

CPU, GPU = 1, 2


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """A field of a protobuf message: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def text(number, value):
    return field(number, value.encode())


def load_request(model, device, chunks=(), gpu="", handle=b"", replica=""):
    message = text(1, model) + text(2, replica) if replica else text(1, model)
    if gpu:
        pieces = b"".join(
            field(1, field(1, source) + field(2, size) + field(3, place)) for source, size, place in chunks
        )
        message += field(3, text(1, gpu) + field(2, pieces))
        message += field(4, text(1, gpu) + field(2, field(1, field(1, handle))))
    return message + field(5, device)


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 64)]


def handle_of(tensor):
    library = ctypes.CDLL("libcudart.so." + torch.version.cuda.split(".")[0])
    handle = Handle()
    code = library.cudaIpcGetMemHandle(ctypes.byref(handle), ctypes.c_void_p(tensor.data_ptr()))
    if code != 0:
        raise SystemExit(f"cudaIpcGetMemHandle: {code}")
    return bytes(bytearray(handle))


class Client:
    """Memory for a whole model on GPU 0, and loads into it."""

    def __init__(self, address, storage_path, model):
        self.channel = grpc.insecure_channel(address)
        self.model = model
        with open(os.path.join(storage_path, model, "tensor_index.json")) as file:
            index = json.load(file)
        self.chunks, place, seen = [], 0, set()
        for offset, size, *_ in index.values():
            if (offset, size) not in seen:
                seen.add((offset, size))
                self.chunks.append((offset, size, place))
                place += size
        self.bytes = place
        self.memory = torch.empty(place, dtype=torch.uint8, device="cuda:0")
        self.handle = handle_of(self.memory)
        properties = torch.cuda.get_device_properties(0)
        self.gpu = str(properties.uuid)

    def call(self, method, message=b"", service="storage.Storage"):
        identity = lambda same: same  # noqa: E731
        call = self.channel.unary_unary(f"/{service}/{method}", request_serializer=identity, response_deserializer=identity)
        return call(message)

    def load(self):
        """As their client: the CPU first, then the GPU, then the confirmation. Seconds of each call."""
        replica = str(uuid.uuid4())
        at = [time.perf_counter()]
        for method, message in (
            ("LoadModelAsync", load_request(self.model, CPU)),
            ("LoadModelAsync", load_request(self.model, GPU, self.chunks, self.gpu, self.handle, replica)),
            ("ConfirmModel", text(1, self.model) + text(2, replica) + field(3, GPU)),
        ):
            self.call(method, message)
            at.append(time.perf_counter())
        return [end - start for start, end in zip(at, at[1:])]

    def check(self, storage_path):
        """Holds what lies on the GPU against the files."""
        files, number = [], 0
        directory = os.path.join(storage_path, self.model)
        while os.path.exists(os.path.join(directory, f"tensor.data_{number}")):
            path = os.path.join(directory, f"tensor.data_{number}")
            files.append(torch.from_file(path, size=os.path.getsize(path), dtype=torch.uint8))
            number += 1
        starts, start = [], 0
        for file in files:
            starts.append(start)
            start += file.numel()
        for offset, size, place in self.chunks:
            which = max(i for i, begin in enumerate(starts) if begin <= offset)
            there = files[which][offset - starts[which] : offset - starts[which] + size].cuda()
            if not torch.equal(there, self.memory[place : place + size]):
                raise SystemExit(f"the bytes at {offset} arrived damaged")


class Server:
    def __init__(self, program, storage_path, pool):
        command = [program, "serve", "--json", "--port", "0", "--storage-path", storage_path, "--mem-pool-size", pool]
        self.process = subprocess.Popen([*command, "--unix", "/tmp/sllm-gds-bench"], stdout=subprocess.PIPE, text=True)
        self.loaded, self.ready, self.made = [], None, threading.Event()
        self.ready = json.loads(self.process.stdout.readline())
        self.address = self.ready["at"][0]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "loaded":
                self.loaded.append(event)
            if event["event"] == "pool_made":
                self.pool_made_s = event["elapsed_s"]
                self.made.set()

    def last(self, count):
        while len(self.loaded) < count:
            time.sleep(0.001)
        return self.loaded[count - 1]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def sectors(device):
    with open(f"/sys/block/{device}/stat") as file:
        return int(file.read().split()[2])


def in_process(args, cold):
    """Seconds of a load by the command itself: cold from the device, else from a pool that holds the model."""
    if cold:
        drop_caches()
        command = [args.program, "load", args.model, "--storage-path", args.storage_path, "--gpus", "0", "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["elapsed_s"]
    results = os.path.join(args.out, "in-process")
    subprocess.run(["rm", "-rf", results], check=True)
    command = [args.program, "bench", "--model", args.source, "--storage-path", args.storage_path, "--gpus", "0"]
    command += ["--mode", "cached", "--formats", "sllm", "--replicas", "3", "--mem-pool-size", args.pool]
    command += ["--prefault", "--no-verify", "--results", results]
    subprocess.run(command, check=True, capture_output=True, text=True)
    times = []
    for name in os.listdir(results):
        if name.endswith(".json"):
            with open(os.path.join(results, name)) as file:
                records = json.load(file)
            if isinstance(records, list):
                times += [record["loading_time"] for record in records if record.get("path") == "pool"]
    return statistics.median(times)


def median_of_ratios(pairs):
    ratios = sorted(a / b for a, b in pairs)
    return statistics.median(ratios), ratios[0], ratios[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("program", "storage-path", "source", "model", "device", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--pool", default="20GB")
    args = parser.parse_args()
    rows = open(os.path.join(args.out, "serve.jsonl"), "w")

    def record(**row):
        rows.write(json.dumps(row) + "\n")
        rows.flush()

    server = Server(args.program, args.storage_path, args.pool)
    print(f"server ready after {server.ready['elapsed_s']:.3f} s")
    client = Client(server.address, args.storage_path, args.model)
    loads = 0

    def serve(cold):
        nonlocal loads
        if cold:
            client.call("ClearMem")
            drop_caches()
        before = sectors(args.device)
        calls_s = client.load()
        loads += 1
        read = (sectors(args.device) - before) * 512
        return calls_s, server.last(loads), read

    serve(False)
    client.check(args.storage_path)
    server.made.wait(60)
    print(f"all of the pool pinned {getattr(server, 'pool_made_s', float('nan')):.2f} s after it began; the first load's bytes are right")
    for case, cold in (("pool", False), ("cold", True)):
        pairs, walls, others = [], [], []
        for turn in range(args.turns):
            own_s = in_process(args, cold)
            calls_s, event, read = serve(cold)
            served_s, path, wall_s = event["elapsed_s"], event["path"], sum(calls_s)
            handles_s = [event["open_handles_s"], event["close_handles_s"]]
            record(case=case, turn=turn, in_process_s=own_s, served_s=served_s, client_s=wall_s, calls_s=calls_s,
                   handles_s=handles_s, phases=event["phases"], path=path, sector_bytes=read)
            pairs.append((own_s, served_s))
            walls.append(wall_s)
            others.append((*calls_s, *handles_s))
        middle, low, high = median_of_ratios(pairs)
        print(
            f"{case}: in one process over served {middle:.3f} ({low:.3f} to {high:.3f}); server's clock "
            f"{statistics.median(p[1] for p in pairs):.3f} s, client's {statistics.median(walls):.3f} s, {path}"
        )
        middles = [statistics.median(column) * 1e3 for column in zip(*others)]
        print("  the client's calls {:.1f}, {:.1f}, {:.1f} ms; opening its memory {:.1f}, closing it {:.1f} ms".format(*middles))
    client.check(args.storage_path)
    together(args, server, client, record)
    calls(server, client, record)
    print(f"ended with {server.end()}")


def together(args, server, first, record):
    """Four clients of one model at once, cold: what the device read."""
    clients = [first] + [Client(server.address, args.storage_path, args.model) for _ in range(3)]
    first.call("ClearMem")
    drop_caches()
    before = sectors(args.device)
    threads = [threading.Thread(target=client.load) for client in clients]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - started
    read = (sectors(args.device) - before) * 512
    model = sum(
        os.path.getsize(os.path.join(args.storage_path, args.model, name))
        for name in os.listdir(os.path.join(args.storage_path, args.model))
        if name.startswith("tensor.data_")
    )
    for client in clients:
        client.check(args.storage_path)
    record(case="together", elapsed_s=elapsed_s, sector_bytes=read, model_bytes=model)
    print(f"four clients at once, cold: {elapsed_s:.3f} s, the device read {read / model:.4f} of the model; all bytes right")
    del clients[1:]


def calls(server, client, record):
    """How long Status takes while loads run."""
    times, ending = [], threading.Event()

    def ask():
        asker = Client.__new__(Client)
        asker.channel = grpc.insecure_channel(server.address)
        while not ending.is_set():
            started = time.perf_counter()
            asker.call("Status", service="sllm_gds.v1.Server")
            times.append(time.perf_counter() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(4):
        client.load()
    ending.set()
    thread.join()
    times.sort()
    p99_s = times[int(len(times) * 0.99)]
    record(case="status", calls=len(times), p99_s=p99_s, worst_s=times[-1])
    print(f"Status while loads run: {len(times)} calls, p99 {p99_s * 1e3:.2f} ms, worst {times[-1] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
