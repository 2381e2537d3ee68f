// Finds CUDA at run time. The program links only to libtorch's CPU library, and opens
// `libtorch_cuda` from the same directory if it is there.
#include "shim.h"

#include <ATen/Context.h>

#include <dlfcn.h>

#include <cstdlib>

namespace {

// The reason why CUDA is unavailable although the machine has its driver. Empty if CUDA is
// available, or if there is no driver.
std::string& fault() {
  static auto* text = new std::string();
  return *text;
}

// Runs before `main`, because libtorch decides once whether there is CUDA: at the first call that
// asks, and seeding is one of them. Without a driver nothing is opened, because the CUDA libraries
// have gigabytes that would be useless.
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
