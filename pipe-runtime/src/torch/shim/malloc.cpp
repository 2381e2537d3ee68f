// The allocator of CPU tensors.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <mimalloc.h>

namespace {

// The same alignment as in libtorch's own allocator: whole vectors and cache lines.
constexpr size_t alignment = 64;

void free_block(void* block) {
  c10::profiledCPUMemoryReporter().Delete(block);
  mi_free(block);
}

// The allocator before this one.
c10::Allocator* before = nullptr;

// oneDNN's operators free their memory with whatever allocator there is when they end: a
// convolution that runs while the allocator changes hands over a block of the one before.
void free_block_of_any(void* block) {
  if (mi_is_in_heap_region(block)) {
    free_block(block);
  } else {
    before->raw_deleter()(block);
  }
}

// When a program ends, mimalloc collects what was freed, though the system takes all memory anyway.
// On whatever thread ends the program, it walks lists of the main thread for that. Beside Open MPI,
// it went round in one for ever, in one of some hundred programs. Above 1, this leaves it out.
// MIMALLOC_DESTROY_ON_EXIT still wins.
[[maybe_unused]] const bool collects_at_exit = [] {
  mi_option_set_default(mi_option_destroy_on_exit, 2);
  return false;
}();

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
    return &free_block_of_any;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

} // namespace

extern "C" {

// Makes CPU tensors from now on take their memory from mimalloc, which keeps freed memory.
void pipe_keep_freed_memory() noexcept {
  static TensorMemory memory;
  if (c10::GetCPUAllocator() == &memory) {
    return;
  }
  before = c10::GetCPUAllocator();
  // By default, it returns memory to the system after a while.
  mi_option_set(mi_option_purge_delay, -1);
  c10::SetCPUAllocator(&memory);
}

} // extern "C"
