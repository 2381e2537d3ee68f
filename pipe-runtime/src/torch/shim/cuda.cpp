// Finds CUDA at run time: the program links only to libtorch's CPU part, and opens `libtorch_cuda`
// in the same folder if it exists.
#include "shim.h"

#include <ATen/Context.h>

#include <dlfcn.h>

#include <cstdlib>

namespace {

// Why CUDA is unavailable although the machine has its driver; empty if CUDA is available or the
// machine has no driver.
std::string& fault() {
  static auto* text = new std::string();
  return *text;
}

// libtorch decides only once whether CUDA is available, at the first call that asks (seeding is
// one). Therefore `libtorch_cuda` is opened before `main`. Without a driver nothing is opened:
// libtorch's CUDA builds would load gigabytes in vain.
__attribute__((constructor)) void open_cuda() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!driver) {
    return;
  }
  Dl_info libtorch;
  if (!dladdr(reinterpret_cast<const void*>(&at::globalContext), &libtorch) ||
      !libtorch.dli_fname) {
    return;
  }
  std::string path(libtorch.dli_fname);
  path.erase(path.rfind('/') + 1);
  if (!dlopen((path + "libtorch_cuda.so").c_str(), RTLD_NOW | RTLD_GLOBAL)) {
    const char* error = dlerror();
    fault() = error ? error : "it cannot be opened";
  }
}

} // namespace

extern "C" {

const char* pipe_cuda_fault() {
  return fault().c_str();
}

} // extern "C"
