// What the number of CUDA streams costs: files through a small pinned ring to the GPU, as the loader does it, in plain
// CUDA and POSIX. Several threads fill a slot, the last of them queues its copy; slots come back by event.
//   nvcc -O3 -std=c++17 -o streams benchmarks/streams.cu
//   streams ROUNDS THREADS CHUNK COPY RING FILE...   sizes in MiB; by 1, 2, 4 and THREADS streams, in turns
#include <cuda_runtime.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

static void check(bool good, const char *what) {
  if (!good) {
    perror(what);
    exit(1);
  }
}

static void cuda(cudaError_t code, const char *what) {
  if (code != cudaSuccess) {
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(code));
    exit(1);
  }
}

struct Slot {
  char *memory;
  cudaEvent_t copied;
};

// One copy: its place on the GPU, and the parts that are still to be filled.
struct Group {
  size_t to;
  std::mutex mutex;
  Slot *slot = nullptr;
  std::atomic<size_t> left;
  Group(size_t to, size_t parts) : to(to), left(parts) {}
};

struct Job {
  int file;
  size_t at, in_slot;
  Group *group;
};

// Slots in the order in which their copies were queued.
struct Ring {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Slot *> slots;

  Slot *take() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return !slots.empty(); });
    Slot *slot = slots.front();
    slots.pop_front();
    lock.unlock();
    cuda(cudaEventSynchronize(slot->copied), "wait for a copy");
    return slot;
  }

  void give_back(Slot *slot) {
    std::lock_guard<std::mutex> lock(mutex);
    slots.push_back(slot);
    changed.notify_all();
  }
};

static void work(std::vector<Job> &jobs, std::atomic<size_t> &next, Ring &ring, size_t chunk, size_t copy, char *device,
                 cudaStream_t stream) {
  for (size_t i; (i = next++) < jobs.size();) {
    Job &job = jobs[i];
    Group &group = *job.group;
    {
      std::lock_guard<std::mutex> lock(group.mutex);
      if (!group.slot)
        group.slot = ring.take();
    }
    for (size_t done = 0; done < chunk;) {
      ssize_t n = pread(job.file, group.slot->memory + job.in_slot + done, chunk - done, job.at + done);
      check(n > 0, "pread");
      done += n;
    }
    if (--group.left > 0)
      continue;
    cuda(cudaMemcpyAsync(device + group.to, group.slot->memory, copy, cudaMemcpyHostToDevice, stream), "copy");
    cuda(cudaEventRecord(group.slot->copied, stream), "record");
    ring.give_back(group.slot);
  }
}

int main(int count, char **words) {
  if (count < 7) {
    fprintf(stderr, "usage: streams ROUNDS THREADS CHUNK COPY RING FILE...   (sizes in MiB)\n");
    return 2;
  }
  const int rounds = atoi(words[1]), threads = atoi(words[2]);
  const size_t mib = 1 << 20, chunk = atoi(words[3]) * mib, copy = atoi(words[4]) * mib, ring_bytes = atoi(words[5]) * mib;
  if (rounds < 1 || threads < 1 || !chunk || !copy || copy % chunk || ring_bytes < copy) {
    fprintf(stderr, "COPY must be whole chunks, RING hold a copy, and none be 0\n");
    return 2;
  }
  std::vector<Job> jobs;
  std::deque<Group> groups;
  size_t total = 0;
  const auto jobs_of = [&] {
    jobs.clear(), groups.clear(), total = 0;
    for (int i = 6; i < count; i++) {
      static std::vector<int> open_files(count, -1);
      int &file = open_files[i];
      file = file < 0 ? open(words[i], O_RDONLY) : file;
      struct stat status;
      check(file >= 0 && fstat(file, &status) == 0, words[i]);
      for (size_t at = 0; at + copy <= (size_t)status.st_size; at += copy, total += copy) {
        groups.emplace_back(total, copy / chunk);
        for (size_t part = 0; part < copy; part += chunk)
          jobs.push_back({file, at + part, part, &groups.back()});
      }
    }
  };
  jobs_of();
  char *device, *memory = (char *)mmap(0, ring_bytes + 2 * mib, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "mmap");
  memory = (char *)(((size_t)memory + 2 * mib - 1) & ~(2 * mib - 1));
  madvise(memory, ring_bytes, MADV_HUGEPAGE);
  cuda(cudaHostRegister(memory, ring_bytes, 0), "pin");
  cuda(cudaMalloc(&device, total), "allocate");
  std::vector<cudaStream_t> streams(threads);
  for (auto &stream : streams)
    cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
  std::vector<Slot> slots(ring_bytes / copy);
  for (size_t i = 0; i < slots.size(); i++) {
    slots[i].memory = memory + i * copy;
    cuda(cudaEventCreateWithFlags(&slots[i].copied, cudaEventDisableTiming), "make an event");
  }
  for (int round = 0; round < rounds; round++)
    for (int used : {1, 2, 4, threads}) {
      jobs_of();
      Ring ring;
      for (auto &slot : slots)
        ring.slots.push_back(&slot);
      std::atomic<size_t> next{0};
      std::vector<std::thread> readers;
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < threads; i++)
        readers.emplace_back([&, i] { work(jobs, next, ring, chunk, copy, device, streams[i % used]); });
      for (auto &reader : readers)
        reader.join();
      cuda(cudaDeviceSynchronize(), "finish");
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      printf("{\"streams\": %d, \"threads\": %d, \"chunk_mib\": %zu, \"copy_mib\": %zu, \"ring_mib\": %zu, \"gb_per_s\": %.3f}\n",
             used, threads, chunk / mib, copy / mib, ring_bytes / mib, total / seconds.count() / 1e9);
    }
}
