// The C library's allocator, which libtorch takes CPU tensors' memory from.
#include "shim.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

extern "C" {

// Whether the allocator could be told to keep what is freed.
int pipe_keep_freed_memory() {
#if defined(__GLIBC__)
  // By default, a block above a threshold that moves between 128 KiB and 32 MiB is mapped and unmapped each time, and a free top of the heap goes back
  // to the system: each page of a fresh tensor is then a fault. Above 1 GiB, blocks are still mapped.
  constexpr int keep = 1 << 30;
  return mallopt(M_MMAP_THRESHOLD, keep) && mallopt(M_TRIM_THRESHOLD, keep) && mallopt(M_TOP_PAD, 64 << 20);
#else
  return 0;
#endif
}

} // extern "C"
