/* Every function of the header, used rightly and wrongly: uses FILE. Ends with 1 and a line where something is not as it should be. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sllm_gds.h"

#define CHECK(condition)                                                                            \
  do {                                                                                              \
    if (!(condition)) {                                                                             \
      fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, sllm_gds_last_error()); \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

/* DLPack's, as its documentation lays it out. */
struct DLManagedTensor {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *);
};

static void count(uint64_t done_bytes, uint64_t all_bytes, void *user) {
  if (done_bytes == all_bytes) {
    *(int *)user += 1;
  }
}

static void into_memory(const sllm_gds_loader *loader, const sllm_gds_checkpoint *checkpoint) {
  unsigned char *memory = calloc(64, 1);
  sllm_gds_memory there = {.device = -1, .address = (uint64_t)(uintptr_t)memory, .bytes = 64};
  sllm_gds_place places[] = {{.name = "w", .offset = 32}, {.name = "b", .offset = 1}};
  sllm_gds_request request = {.struct_bytes = sizeof request, .to = SLLM_GDS_TO_MEMORY, .verify = 1};
  request.memories = &there;
  request.memory_count = 1;
  request.places = places;
  request.place_count = 2;
  sllm_gds_model *model = NULL;
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_OK);
  CHECK(memory[32] == 1 && memory[43] == 12 && memory[1] == 13 && memory[4] == 16 && memory[0] == 0);
  sllm_gds_model_free(model);
  places[1].offset = 62;
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_REFUSED);
  CHECK(strstr(sllm_gds_last_error(), "'b'") != NULL);
  free(memory);
}

static void wrongly(const sllm_gds_loader *loader, const sllm_gds_checkpoint *checkpoint) {
  sllm_gds_model *model = NULL;
  sllm_gds_loader *none = NULL;
  sllm_gds_request request = {.struct_bytes = sizeof request};
  CHECK(sllm_gds_load(NULL, checkpoint, NULL, &model) == SLLM_GDS_INVALID_ARGUMENT);
  CHECK(sllm_gds_load(loader, NULL, NULL, &model) == SLLM_GDS_INVALID_ARGUMENT);
  CHECK(sllm_gds_load(loader, checkpoint, NULL, NULL) == SLLM_GDS_INVALID_ARGUMENT);
  request.to = 77;
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_INVALID_ARGUMENT);
  request.to = SLLM_GDS_TO_GPU;
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_INVALID_ARGUMENT);
  request.to = SLLM_GDS_TO_HOST;
  const char *names[] = {"w", "no such tensor"};
  request.names = names;
  request.name_count = 2;
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_NOT_FOUND);
  request.struct_bytes = 0;
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_INVALID_ARGUMENT);
  sllm_gds_settings settings = {.struct_bytes = sizeof settings, .engine = 9};
  CHECK(sllm_gds_loader_new(&settings, &none) == SLLM_GDS_INVALID_ARGUMENT);
  settings.engine = SLLM_GDS_ENGINE_HOST;
  settings.threads = 1000000;
  CHECK(sllm_gds_loader_new(&settings, &none) == SLLM_GDS_REFUSED && none == NULL);
  CHECK(sllm_gds_checkpoint_open("\xff", NULL) == SLLM_GDS_INVALID_ARGUMENT);
  CHECK(model == NULL && sllm_gds_model_tensor_count(NULL) == 0 && sllm_gds_model_report(NULL) == NULL);
  sllm_gds_cancel *cancel = NULL;
  CHECK(sllm_gds_cancel_new(&cancel) == SLLM_GDS_OK);
  sllm_gds_cancel_set(cancel);
  sllm_gds_request cancelled = {.struct_bytes = sizeof cancelled, .cancel = cancel};
  CHECK(sllm_gds_load(loader, checkpoint, &cancelled, &model) == SLLM_GDS_INTERRUPTED);
  sllm_gds_cancel_free(cancel);
  sllm_gds_cancel_free(NULL);
}

int main(int argc, char **argv) {
  CHECK(argc == 2 && sllm_gds_abi_version() == SLLM_GDS_ABI_VERSION);
  CHECK(strcmp(sllm_gds_last_error(), "") == 0);
  CHECK(strcmp(sllm_gds_status_name(SLLM_GDS_OUT_OF_MEMORY), "OUT_OF_MEMORY") == 0);
  sllm_gds_settings settings = {.struct_bytes = sizeof settings, .threads = 2, .io = SLLM_GDS_IO_BUFFERED};
  sllm_gds_loader *loader = NULL;
  sllm_gds_checkpoint *checkpoint = NULL;
  sllm_gds_model *model = NULL;
  sllm_gds_tensor tensor;
  CHECK(sllm_gds_loader_new(&settings, &loader) == SLLM_GDS_OK);
  CHECK(sllm_gds_checkpoint_open(argv[1], &checkpoint) == SLLM_GDS_OK);
  CHECK(sllm_gds_checkpoint_tensor_count(checkpoint) == 2);
  CHECK(sllm_gds_checkpoint_tensor(checkpoint, 1, &tensor) == SLLM_GDS_OK && strcmp(tensor.name, "b") == 0);
  CHECK(sllm_gds_checkpoint_tensor(checkpoint, 2, &tensor) == SLLM_GDS_INVALID_ARGUMENT);
  CHECK(sllm_gds_checkpoint_find(checkpoint, "w", &tensor) == SLLM_GDS_OK && tensor.address == 0);
  CHECK(sllm_gds_checkpoint_find(checkpoint, "v", &tensor) == SLLM_GDS_NOT_FOUND);

  int told = 0;
  sllm_gds_request request = {.struct_bytes = sizeof request, .progress = count, .user = &told};
  CHECK(sllm_gds_load(loader, checkpoint, &request, &model) == SLLM_GDS_OK && told == 1);
  CHECK(sllm_gds_model_tensor_count(model) == 2 && strstr(sllm_gds_model_report(model), "\"bytes\":16") != NULL);
  CHECK(sllm_gds_model_find(model, "w", 0, &tensor) == SLLM_GDS_OK && tensor.device == -1 && tensor.axes == 2);
  CHECK(tensor.shape[0] == 2 && tensor.shape[1] == 3 && tensor.strides[0] == 3 && tensor.bytes == 12);
  CHECK(((unsigned char *)(uintptr_t)tensor.address)[11] == 12);
  CHECK(sllm_gds_model_find(model, "w", 1, &tensor) == SLLM_GDS_NOT_FOUND);
  unsigned char bytes[4];
  CHECK(sllm_gds_model_read(model, "b", bytes, 4) == SLLM_GDS_OK && bytes[0] == 13 && bytes[3] == 16);
  CHECK(sllm_gds_model_read(model, "b", bytes, 3) == SLLM_GDS_REFUSED);
  CHECK(sllm_gds_model_read(model, "b", NULL, 4) == SLLM_GDS_INVALID_ARGUMENT);

  struct DLManagedTensor *w = NULL, *b = NULL;
  CHECK(sllm_gds_model_dlpack(model, 0, 0, &w) == SLLM_GDS_OK && sllm_gds_model_dlpack(model, 1, 0, &b) == SLLM_GDS_OK);
  CHECK(sllm_gds_model_dlpack(model, 2, 0, &w) == SLLM_GDS_INVALID_ARGUMENT);
  sllm_gds_model_free(model);
  CHECK(w->device_type == 1 && w->code == 4 && w->bits == 16 && w->ndim == 2 && w->shape[1] == 3 && w->strides[0] == 3);
  CHECK(((unsigned char *)w->data)[0] == 1 && ((unsigned char *)b->data)[3] == 16);
  CHECK(b->code == 1 && b->bits == 8 && b->ndim == 1 && b->shape[0] == 4);
  w->deleter(w);
  b->deleter(b);

  const char *names[] = {"b"};
  sllm_gds_request one = {.struct_bytes = sizeof one, .names = names, .name_count = 1};
  CHECK(sllm_gds_load(loader, checkpoint, &one, &model) == SLLM_GDS_OK && sllm_gds_model_tensor_count(model) == 1);
  sllm_gds_model_free(model);
  into_memory(loader, checkpoint);
  wrongly(loader, checkpoint);
  sllm_gds_checkpoint_free(checkpoint);
  sllm_gds_loader_free(loader);
  puts("all as it should be");
  return 0;
}
