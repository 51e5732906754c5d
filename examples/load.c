/* Loads a checkpoint and prints a tensor: load DIRECTORY [GPU]. Without a GPU it goes to host memory.
 *
 *   cargo rustc --release --lib --crate-type cdylib --no-default-features --features capi -- \
 *     -C link-arg=-Wl,-soname,libsllm_gds.so.1
 *   ln -sf libsllm_gds.so target/release/libsllm_gds.so.1
 *   cc -Iffi examples/load.c -o load -Ltarget/release -lsllm_gds -Wl,-rpath,$PWD/target/release
 */
#include <inttypes.h>
#include <stdio.h>

#include "sllm_gds.h"

static int failed(const char *what, sllm_gds_status status) {
  fprintf(stderr, "%s: %s: %s\n", what, sllm_gds_status_name(status), sllm_gds_last_error());
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: load DIRECTORY [GPU]\n");
    return 2;
  }
  if (sllm_gds_abi_version() != SLLM_GDS_ABI_VERSION) {
    fprintf(stderr, "the library has another version than its header\n");
    return 2;
  }
  const char *gpu = argc > 2 ? argv[2] : NULL;
  sllm_gds_request request = {.struct_bytes = sizeof request, .verify = 1};
  if (gpu != NULL) {
    request.to = SLLM_GDS_TO_GPU;
    request.gpus = &gpu;
    request.gpu_count = 1;
  }
  sllm_gds_loader *loader = NULL;
  sllm_gds_checkpoint *checkpoint = NULL;
  sllm_gds_model *model = NULL;
  sllm_gds_tensor tensor;
  int code = 0;
  sllm_gds_status status = sllm_gds_loader_new(NULL, &loader);
  if (status != SLLM_GDS_OK) {
    code = failed("loader", status);
  } else if ((status = sllm_gds_checkpoint_open(argv[1], &checkpoint)) != SLLM_GDS_OK) {
    code = failed(argv[1], status);
  } else if ((status = sllm_gds_load(loader, checkpoint, &request, &model)) != SLLM_GDS_OK) {
    code = failed(argv[1], status);
  } else if ((status = sllm_gds_model_tensor(model, 0, 0, &tensor)) != SLLM_GDS_OK) {
    code = failed(argv[1], status);
  } else {
    printf("%zu tensors: %s\n", sllm_gds_model_tensor_count(model), sllm_gds_model_report(model));
    printf("%s: %s [", tensor.name, tensor.dtype);
    for (size_t axis = 0; axis < tensor.axes; axis++) {
      printf("%s%" PRIu64, axis > 0 ? ", " : "", tensor.shape[axis]);
    }
    printf("] on device %" PRId32 "\n", tensor.device);
  }
  sllm_gds_model_free(model);
  sllm_gds_checkpoint_free(checkpoint);
  sllm_gds_loader_free(loader);
  return code;
}
