// Counts the bytes that a process has allocated and not freed. It is loaded before libc
// (`LD_PRELOAD`) and passes every call on to glibc.
//
// Only blocks of at least a KiB count; all tensors of interest are that large. The counts are in
// the file that `LIVE_BYTES` names, where another process reads them: the bytes that are live now,
// then the peak.

#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);
extern "C" void* __libc_memalign(size_t, size_t);
extern "C" void __libc_free(void*);

namespace {

struct Counts {
  std::atomic<int64_t> live, peak;
};

constexpr size_t SMALLEST = 1024;

Counts own;
std::atomic<Counts*> counts{&own};

// Blocks that were allocated before this runs are counted in `own`: a few MB at most.
__attribute__((constructor)) void open_file() {
  const char* name = getenv("LIVE_BYTES");
  int file = name ? open(name, O_RDWR) : -1;
  if (file < 0)
    return;
  void* memory = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory != MAP_FAILED)
    counts = static_cast<Counts*>(memory);
}

void* count(void* block) {
  if (!block)
    return block;
  int64_t size = malloc_usable_size(block);
  if (size < static_cast<int64_t>(SMALLEST))
    return block;
  Counts& all = *counts.load(std::memory_order_relaxed);
  int64_t live = all.live.fetch_add(size, std::memory_order_relaxed) + size;
  int64_t peak = all.peak.load(std::memory_order_relaxed);
  while (live > peak && !all.peak.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
  }
  return block;
}

void discount(void* block) {
  if (!block)
    return;
  int64_t size = malloc_usable_size(block);
  if (size < static_cast<int64_t>(SMALLEST))
    return;
  counts.load(std::memory_order_relaxed)->live.fetch_sub(size, std::memory_order_relaxed);
}

} // namespace

extern "C" {

void* malloc(size_t size) {
  return count(__libc_malloc(size));
}

void* calloc(size_t number, size_t size) {
  return count(__libc_calloc(number, size));
}

void* realloc(void* block, size_t size) {
  discount(block);
  void* moved = __libc_realloc(block, size);
  // A failed call leaves the block where it was.
  count(moved || size == 0 ? moved : block);
  return moved;
}

void* memalign(size_t alignment, size_t size) {
  return count(__libc_memalign(alignment, size));
}

void* aligned_alloc(size_t alignment, size_t size) {
  return memalign(alignment, size);
}

int posix_memalign(void** block, size_t alignment, size_t size) {
  void* made = memalign(alignment, size);
  if (!made)
    return ENOMEM;
  *block = made;
  return 0;
}

void free(void* block) {
  discount(block);
  __libc_free(block);
}

} // extern "C"
