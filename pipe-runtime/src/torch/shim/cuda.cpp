// CUDA is found at run time: the program links to libtorch's CPU part alone, and opens
// `libtorch_cuda` beside it if it is there.
#include "shim.h"

#include <ATen/Context.h>

#include <dlfcn.h>

#include <cstdlib>

namespace {

// Why CUDA is not there although the machine has its driver; empty if it is there, or the machine
// has none.
std::string& fault() {
  static auto* text = new std::string();
  return *text;
}

// libtorch decides once whether there is CUDA, at the first call that asks (seeding is one): so it
// is opened before `main`. Without a driver nothing is opened: the wheels for CUDA bring gigabytes
// that would be in vain.
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
