// What cuFile can do at best here, for ratios in the same run: a plain program of threads that call cuFileRead, none of
// our code. It reads whole chunks of each file to one device allocation; opening the driver, registering handles and
// memory are timed apart.
//   nvcc -O3 -std=c++17 -o cufile benchmarks/cufile.cu -lcufile -lcuda
//   cufile ROUNDS THREADS CHUNK direct|buffered none|whole|thread FILE...
//     none     device memory as it is
//     whole    the whole allocation registered once
//     thread   each thread reads to a chunk of its own, registered, and copies on from there
#include <cuda_runtime.h>
#include <cufile.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

static void check(bool good, const char *what, int code = 0) {
  if (!good) {
    fprintf(stderr, "%s failed, code %d\n", what, code);
    exit(1);
  }
}

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Job {
  CUfileHandle_t file;
  size_t file_offset, device_offset;
};

int main(int count, char **words) {
  if (count < 7) {
    fprintf(stderr, "usage: cufile ROUNDS THREADS CHUNK direct|buffered none|whole|thread FILE...\n");
    return 2;
  }
  int rounds = atoi(words[1]), threads = atoi(words[2]);
  size_t chunk = strtoull(words[3], 0, 10);
  bool direct = !strcmp(words[4], "direct"), whole = !strcmp(words[5], "whole"), own = !strcmp(words[5], "thread");
  check(cudaFree(0) == cudaSuccess, "CUDA context");
  double start = now();
  CUfileError_t status = cuFileDriverOpen();
  check(status.err == CU_FILE_SUCCESS, "cuFileDriverOpen", status.err);
  double driver_s = now() - start;
  start = now();
  std::vector<Job> jobs;
  size_t total = 0;
  for (int i = 6; i < count; i++) {
    int file = open(words[i], O_RDONLY | (direct ? O_DIRECT : 0));
    check(file >= 0, words[i]);
    CUfileDescr_t what = {};
    what.type = CU_FILE_HANDLE_TYPE_OPAQUE_FD;
    what.handle.fd = file;
    CUfileHandle_t handle;
    status = cuFileHandleRegister(&handle, &what);
    check(status.err == CU_FILE_SUCCESS, "cuFileHandleRegister", status.err);
    struct stat facts;
    check(fstat(file, &facts) == 0, words[i]);
    for (size_t at = 0; at + chunk <= (size_t)facts.st_size; at += chunk, total += chunk)
      jobs.push_back({handle, at, total});
  }
  double handles_s = now() - start;
  char *device;
  check(cudaMalloc(&device, total + threads * chunk) == cudaSuccess, "cudaMalloc");
  start = now();
  if (whole) {
    status = cuFileBufRegister(device, total, 0);
    check(status.err == CU_FILE_SUCCESS, "cuFileBufRegister", status.err);
  }
  double register_s = now() - start;
  std::vector<double> rates;
  for (int round = 0; round < rounds; round++) {
    std::atomic<size_t> next{0};
    std::vector<std::thread> readers;
    start = now();
    for (int t = 0; t < threads; t++)
      readers.emplace_back([&, t] {
        cudaSetDevice(0);
        char *mine = device + total + t * chunk;
        cudaStream_t stream;
        if (own) {
          CUfileError_t status = cuFileBufRegister(mine, chunk, 0);
          check(status.err == CU_FILE_SUCCESS, "cuFileBufRegister", status.err);
          check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
        }
        for (size_t j; (j = next++) < jobs.size();) {
          for (size_t done = 0; done < chunk;) {
            ssize_t n = own ? cuFileRead(jobs[j].file, mine, chunk - done, jobs[j].file_offset + done, done)
                            : cuFileRead(jobs[j].file, device, chunk - done, jobs[j].file_offset + done,
                                         jobs[j].device_offset + done);
            check(n > 0, "cuFileRead", (int)n);
            done += n;
          }
          if (own) {
            check(cudaMemcpyAsync(device + jobs[j].device_offset, mine, chunk, cudaMemcpyDeviceToDevice, stream) ==
                      cudaSuccess, "copy");
            check(cudaStreamSynchronize(stream) == cudaSuccess, "synchronize");
          }
        }
        if (own)
          cuFileBufDeregister(mine);
      });
    for (auto &reader : readers)
      reader.join();
    check(cudaDeviceSynchronize() == cudaSuccess, "synchronize");
    rates.push_back(total / (now() - start) / 1e9);
  }
  std::vector<double> sorted = rates;
  std::sort(sorted.begin(), sorted.end());
  printf("{\"threads\": %d, \"chunk_bytes\": %zu, \"io\": \"%s\", \"registered\": \"%s\", \"bytes\": %zu, "
         "\"driver_open_s\": %.4f, \"handles_s\": %.4f, \"register_s\": %.4f, \"first_gb_per_s\": %.3f, "
         "\"best_gb_per_s\": %.3f, \"median_gb_per_s\": %.3f}\n",
         threads, chunk, words[4], words[5], total, driver_s, handles_s, register_s, rates[0], sorted.back(),
         sorted[sorted.size() / 2]);
  return 0;
}
