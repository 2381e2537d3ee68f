// An allocator of CPU tensors that fails once when it is told to. It is told by a file, which both
// sides have in their memory: the program writes how many allocations are left.
#include <atomic>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include <c10/core/CPUAllocator.h>

namespace {

using Left = std::atomic<int64_t>;

struct FailingMemory final : c10::Allocator {
  FailingMemory(c10::Allocator* memory, Left* left) : memory(memory), left(left) {}

  c10::DataPtr allocate(size_t bytes) override {
    // Tensors without elements need no memory.
    if (bytes > 0) {
      int64_t now = left->load();
      while (now > 0 && !left->compare_exchange_weak(now, now - 1)) {
      }
      TORCH_CHECK(now != 1, "not enough memory: on purpose");
    }
    return memory->allocate(bytes);
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return memory->raw_deleter();
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  c10::Allocator* memory;
  Left* left;
};

// Installs the allocator before `main`, above the pipeline's own, and publishes the file's path.
__attribute__((constructor)) void install() {
  const char* folder = getenv("TMPDIR");
  static std::string path = std::string(folder ? folder : "/tmp") + "/pipe-failing-memory-XXXXXX";
  const int file = mkstemp(path.data());
  void* shared = MAP_FAILED;
  if (file >= 0 && ftruncate(file, sizeof(Left)) == 0) {
    shared = mmap(nullptr, sizeof(Left), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  if (shared == MAP_FAILED || setenv("PIPE_FAILING_MEMORY", path.c_str(), 1) != 0) {
    perror("the file of the failing memory cannot be made");
    abort();
  }
  close(file);
  atexit([] { unlink(path.c_str()); });
  static FailingMemory memory(c10::GetCPUAllocator(), new (shared) Left(0));
  c10::SetCPUAllocator(&memory, /*priority=*/1);
}

} // namespace
