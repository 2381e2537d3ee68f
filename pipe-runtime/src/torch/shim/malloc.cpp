// The allocator of CPU tensors that keeps freed memory for reuse.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <mimalloc.h>

namespace {

// The alignment of libtorch's own allocator: whole vectors and cache lines.
constexpr size_t alignment = 64;

void free_block(void* block) {
  c10::profiledCPUMemoryReporter().Delete(block);
  mi_free(block);
}

struct TensorMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = nullptr;
    if (bytes > 0) {
      block = mi_malloc_aligned(bytes, alignment);
      if (!block) {
        c10::profiledCPUMemoryReporter().OutOfMemory(bytes);
        TORCH_CHECK(false, "not enough memory: a tensor of ", bytes, " bytes cannot be allocated");
      }
      c10::profiledCPUMemoryReporter().New(block, bytes);
    }
    return {block, block, &free_block, at::kCPU};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &free_block;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

} // namespace

extern "C" {

// Makes CPU tensors created from now on take their memory from mimalloc, which keeps what they
// free.
void pipe_keep_freed_memory() noexcept {
  static TensorMemory memory;
  // By default, mimalloc returns memory to the system after a while.
  mi_option_set(mi_option_purge_delay, -1);
  c10::SetCPUAllocator(&memory);
}

} // extern "C"
