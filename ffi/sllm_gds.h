/* sllm-gds in C: loads LLM checkpoints to GPUs or host memory.
 *
 * Every function that can fail returns SLLM_GDS_OK or another status; sllm_gds_last_error() then says what, where, why and what to
 * do. No call ends the process, and no panic crosses. Texts are UTF-8 and end with a zero byte.
 *
 * Who owns what: what comes out through a `**` is the caller's, to be freed by the function of that name, once; freeing null does
 * nothing. All other pointers that come out are the library's or the object's that they were asked of, and stay as long as that.
 * Pointers that go in need to last as long as the call.
 *
 * Threads: any function may be called from any thread, also on one object at once, but for freeing it, which must come last.
 * CUDA does not survive a fork: in a forked child loads are refused.
 *
 * Sizes are in bytes, axes in elements. GPUs are named by their index under CUDA_VISIBLE_DEVICES, as "0", or by UUID.
 */
#ifndef SLLM_GDS_H
#define SLLM_GDS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ---- */

/* Of this header. A library of another version may not fit: compare it with sllm_gds_abi_version(). */
#define SLLM_GDS_ABI_VERSION 1

typedef int32_t sllm_gds_status;

#define SLLM_GDS_OK 0
/* There is no such checkpoint, file, tensor or GPU. */
#define SLLM_GDS_NOT_FOUND 1
/* The checkpoint's files do not fit together, some are missing, or they are none. */
#define SLLM_GDS_CHECKPOINT 2
/* A file could not be read. */
#define SLLM_GDS_IO 3
/* With verify: bytes arrived that are not those that were written. */
#define SLLM_GDS_CORRUPT 4
/* Host or device memory is short. */
#define SLLM_GDS_OUT_OF_MEMORY 5
/* The CUDA driver failed. */
#define SLLM_GDS_CUDA 6
/* The request or the settings make no sense, or the process was forked. */
#define SLLM_GDS_REFUSED 7
/* The request's cancel was set. */
#define SLLM_GDS_INTERRUPTED 8
/* An argument that can't be: a null pointer, an unknown number. */
#define SLLM_GDS_INVALID_ARGUMENT 9
/* A fault of the library's own: please report it. */
#define SLLM_GDS_PANIC 10

uint32_t sllm_gds_abi_version(void);

/* Why the last call on this thread that failed did so; "" before the first. Stays until the next failure on this thread. */
const char *sllm_gds_last_error(void);

/* The name of a status, as "OUT_OF_MEMORY". */
const char *sllm_gds_status_name(sllm_gds_status status);

/* ---- Tensors ---- */

/* What a tensor is and, of a model, where it lies. Its pointers are the checkpoint's or model's that it was asked of. */
typedef struct sllm_gds_tensor {
  const char *name;
  /* As safetensors calls it: "BF16". */
  const char *dtype;
  size_t axes;
  /* `axes` numbers each: elements along an axis, and from one to the next along it. */
  const uint64_t *shape;
  const uint64_t *strides;
  uint64_t bytes;
  /* The index of its GPU; -1 for host memory, and for tensors of a checkpoint. */
  int32_t device;
  /* Of its first byte there; 0 for tensors of a checkpoint. A multiple of 256 in memory that a load made on a GPU. */
  uint64_t address;
} sllm_gds_tensor;

/* ---- Checkpoints ---- */

typedef struct sllm_gds_checkpoint sllm_gds_checkpoint;

/* Opens a directory in ServerlessLLM's layout or of safetensors files, or one such file. Reads its index, no weights.
 * NOT_FOUND, CHECKPOINT, IO. */
sllm_gds_status sllm_gds_checkpoint_open(const char *path, sllm_gds_checkpoint **checkpoint);

void sllm_gds_checkpoint_free(sllm_gds_checkpoint *checkpoint);

/* 0 of null. */
size_t sllm_gds_checkpoint_tensor_count(const sllm_gds_checkpoint *checkpoint);

/* Tensor number `index`, in the order in which they lie in the files. INVALID_ARGUMENT. */
sllm_gds_status sllm_gds_checkpoint_tensor(const sllm_gds_checkpoint *checkpoint, size_t index, sllm_gds_tensor *tensor);

/* The tensor of this name. NOT_FOUND. */
sllm_gds_status sllm_gds_checkpoint_find(const sllm_gds_checkpoint *checkpoint, const char *name, sllm_gds_tensor *tensor);

/* ---- Loaders ---- */

typedef struct sllm_gds_loader sllm_gds_loader;

#define SLLM_GDS_ENGINE_AUTO 0
#define SLLM_GDS_ENGINE_GDS 1
#define SLLM_GDS_ENGINE_PINNED 2
#define SLLM_GDS_ENGINE_HOST 3

#define SLLM_GDS_IO_AUTO 0
#define SLLM_GDS_IO_DIRECT 1
#define SLLM_GDS_IO_BUFFERED 2

/* How a loader loads. Zero it, set struct_bytes, and what you want: 0 is the default of each. */
typedef struct sllm_gds_settings {
  /* sizeof(sllm_gds_settings) */
  size_t struct_bytes;
  uint32_t engine;
  uint32_t io;
  /* Reader threads of each link to a GPU, or in all to host memory. */
  uint64_t threads;
  uint64_t chunk_bytes;
  uint64_t copy_bytes;
  uint64_t ring_bytes;
  /* Pinned memory that keeps what was loaded to GPUs; 0: none. */
  uint64_t pool_bytes;
  uint64_t pool_chunk_bytes;
  /* Not 0: take all of the pool at the first load. */
  uint32_t prefault;
  /* The program sllm-gds, that proves which way reads by cuFile go; null: cuFile counts as not proven. */
  const char *gds_helper;
} sllm_gds_settings;

/* A loader keeps what is dear to make (CUDA contexts, pinned memory, streams): build one, and share it. `settings` may be null.
 * REFUSED, OUT_OF_MEMORY. */
sllm_gds_status sllm_gds_loader_new(const sllm_gds_settings *settings, sllm_gds_loader **loader);

/* Models that it loaded stay. */
void sllm_gds_loader_free(sllm_gds_loader *loader);

/* ---- Loads ---- */

/* A flag that ends loads; it can be set from any thread or signal handler. */
typedef struct sllm_gds_cancel sllm_gds_cancel;

sllm_gds_status sllm_gds_cancel_new(sllm_gds_cancel **cancel);

void sllm_gds_cancel_set(const sllm_gds_cancel *cancel);

void sllm_gds_cancel_free(sllm_gds_cancel *cancel);

#define SLLM_GDS_TO_HOST 0
/* One GPU. */
#define SLLM_GDS_TO_GPU 1
/* Shared out to several. */
#define SLLM_GDS_TO_BALANCED 2
/* Everything to each of several. */
#define SLLM_GDS_TO_REPLICATE 3
/* Into memory of the caller's. */
#define SLLM_GDS_TO_MEMORY 4

/* Memory of the caller's. It may be written to, and stays so until the model that is loaded into it is freed; during the load
 * nobody else reads or writes it, also no kernel that was queued before. Memories of one load share no byte. */
typedef struct sllm_gds_memory {
  /* The index of its GPU; -1 for host memory. */
  int32_t device;
  uint64_t address;
  uint64_t bytes;
} sllm_gds_memory;

/* Where a tensor goes: into which of the memories, and how many bytes from its start. */
typedef struct sllm_gds_place {
  const char *name;
  size_t memory;
  uint64_t offset;
} sllm_gds_place;

/* Told of bytes that were read so far, and of all that will be: from the loader's threads, one at a time. It should return at
 * once, and must not unwind. */
typedef void (*sllm_gds_progress)(uint64_t done_bytes, uint64_t all_bytes, void *user);

/* A load. Zero it, set struct_bytes, and what you want: 0 or null is the default of each. */
typedef struct sllm_gds_request {
  /* sizeof(sllm_gds_request) */
  size_t struct_bytes;
  /* SLLM_GDS_TO_HOST and what follows. */
  uint32_t to;
  /* Not 0: check every byte where it lies. */
  uint32_t verify;
  const char *const *gpus;
  size_t gpu_count;
  /* Over which PCIe links: "auto", "own", "all", or GPUs as "0,1". */
  const char *links;
  /* These tensors only. */
  const char *const *names;
  size_t name_count;
  /* Only tensors whose names begin so. */
  const char *prefix;
  /* With SLLM_GDS_TO_MEMORY: a place for every tensor that is selected. */
  const sllm_gds_memory *memories;
  size_t memory_count;
  const sllm_gds_place *places;
  size_t place_count;
  const sllm_gds_cancel *cancel;
  sllm_gds_progress progress;
  void *user;
} sllm_gds_request;

typedef struct sllm_gds_model sllm_gds_model;

/* Loads, and returns when every byte is in its place. After an error nothing is left but what was written to memory of the
 * caller's. A null `request` loads everything to host memory. Any status. */
sllm_gds_status sllm_gds_load(const sllm_gds_loader *loader, const sllm_gds_checkpoint *checkpoint, const sllm_gds_request *request, sllm_gds_model **model);

/* ---- Models ---- */

/* Frees its memory, but for the caller's and what tensors that went out by DLPack still hold. */
void sllm_gds_model_free(sllm_gds_model *model);

/* 0 of null. */
size_t sllm_gds_model_tensor_count(const sllm_gds_model *model);

/* Tensor number `index`; `copy` is 0, but for the GPU at that place of a replicated load. INVALID_ARGUMENT, NOT_FOUND. */
sllm_gds_status sllm_gds_model_tensor(const sllm_gds_model *model, size_t index, size_t copy, sllm_gds_tensor *tensor);

/* The tensor of this name. NOT_FOUND. */
sllm_gds_status sllm_gds_model_find(const sllm_gds_model *model, const char *name, size_t copy, sllm_gds_tensor *tensor);

/* Copies a tensor's bytes to host memory, wherever it lies; `bytes` are exactly its own. NOT_FOUND, REFUSED, CUDA. */
sllm_gds_status sllm_gds_model_read(const sllm_gds_model *model, const char *name, void *to, uint64_t bytes);

/* How it was loaded, as JSON with the fields of the Rust crate's LoadReport. Null of null. */
const char *sllm_gds_model_report(const sllm_gds_model *model);

/* DLPack's, unversioned: include its header to look inside. */
struct DLManagedTensor;

/* The tensor for others' libraries. It holds the model's memory until its deleter is called, also when the model is freed before.
 * Floats of 8 bits cross as uint8 of their shape, smaller ones as one row of uint8. INVALID_ARGUMENT, NOT_FOUND. */
sllm_gds_status sllm_gds_model_dlpack(const sllm_gds_model *model, size_t index, size_t copy, struct DLManagedTensor **tensor);

#ifdef __cplusplus
}
#endif

#endif
