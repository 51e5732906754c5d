// What this machine can do at best, for ratios in the same run. Plain CUDA runtime and POSIX, none of our code.
//   nvcc -O3 -std=c++17 -o ceilings benchmarks/ceilings.cu
//   ceilings copy BYTES                     pinned host memory to the GPU, one copy; best and median of 9
//   ceilings read ROUNDS THREADS CHUNK FILE...   O_DIRECT reads into memory, nothing else; best and median
#include <cuda_runtime.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

static void check(bool good, const char *what) {
  if (!good) {
    perror(what);
    exit(1);
  }
}

static void rates(int rounds, double bytes, const std::function<void()> &run) {
  std::vector<double> all;
  for (int i = 0; i < rounds; i++) {
    auto start = std::chrono::steady_clock::now();
    run();
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    all.push_back(bytes / seconds.count() / 1e9);
  }
  std::sort(all.begin(), all.end());
  printf("{\"best_gb_per_s\": %.3f, \"median_gb_per_s\": %.3f}\n", all.back(), all[all.size() / 2]);
}

static int copy(size_t bytes) {
  void *host, *device;
  check(cudaHostAlloc(&host, bytes, 0) == cudaSuccess, "cudaHostAlloc");
  check(cudaMalloc(&device, bytes) == cudaSuccess, "cudaMalloc");
  memset(host, 1, bytes);
  rates(9, bytes, [&] {
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, 0) == cudaSuccess, "copy");
    check(cudaDeviceSynchronize() == cudaSuccess, "synchronize");
  });
  return 0;
}

static int read_files(int rounds, int threads, size_t chunk, int count, char **paths) {
  std::vector<int> files;
  std::vector<std::pair<int, size_t>> jobs;
  size_t total = 0;
  for (int i = 0; i < count; i++) {
    files.push_back(open(paths[i], O_RDONLY | O_DIRECT));
    check(files.back() >= 0, paths[i]);
    struct stat status;
    check(fstat(files.back(), &status) == 0, paths[i]);
    for (size_t at = 0; at + chunk <= (size_t)status.st_size; at += chunk, total += chunk)
      jobs.push_back({files.back(), at});
  }
  // Huge pages, as the loader has: small ones cost a virtual disk a third of its rate.
  const size_t huge = 2 << 20, size = threads * chunk + huge;
  char *mapped = (char *)mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(mapped != MAP_FAILED, "mmap");
  char *memory = (char *)(((size_t)mapped + huge - 1) & ~(huge - 1));
  madvise(memory, threads * chunk, MADV_HUGEPAGE);
  memset(memory, 1, threads * chunk);
  rates(rounds, total, [&] {
    std::atomic<size_t> next{0};
    std::vector<std::thread> readers;
    for (int t = 0; t < threads; t++)
      readers.emplace_back([&, t] {
        for (size_t job; (job = next++) < jobs.size();)
          for (size_t done = 0; done < chunk;) {
            ssize_t n = pread(jobs[job].first, memory + t * chunk + done, chunk - done, jobs[job].second + done);
            check(n > 0, "pread");
            done += n;
          }
      });
    for (auto &reader : readers)
      reader.join();
  });
  return 0;
}

int main(int count, char **words) {
  if (count == 3 && !strcmp(words[1], "copy"))
    return copy(strtoull(words[2], 0, 10));
  if (count >= 6 && !strcmp(words[1], "read"))
    return read_files(atoi(words[2]), atoi(words[3]), strtoull(words[4], 0, 10), count - 5, words + 5);
  fprintf(stderr, "usage: ceilings copy BYTES | ceilings read ROUNDS THREADS CHUNK FILE...\n");
  return 2;
}
